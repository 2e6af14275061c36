"""Images as addresses: small ones pixel by pixel, large ones smaller."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from skiptune.views.report.blocks import Tile
from skiptune.views.report.tiles import LARGEST, pair_of


def decoded(tile: Tile) -> Image.Image:
    head, _, data = tile.source.partition(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == f"data:image/{(picture.format or '').lower()};base64"
    return picture


@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_are_kept_as_they_are(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, channels, 8, 6), dtype=np.uint8)
    pair = pair_of(images[0], images[1], [7, 8, 9], names=("a", "b"), caption="c.")
    assert pair.side == (6, 8) and pair.caption == "c."
    assert [tile.words for tile in pair.after] == ["seed 7, b", "seed 8, b", "seed 9, b"]
    for tiles, whole in ((pair.before, images[0]), (pair.after, images[1])):
        for tile, pixels in zip(tiles, whole, strict=True):
            found = np.asarray(decoded(tile)).reshape(8, 6, channels)
            np.testing.assert_array_equal(found, pixels.transpose(1, 2, 0))


def test_large_images_are_made_smaller_and_it_is_said() -> None:
    ramp = np.linspace(0, 255, 512, dtype=np.uint8)
    images = np.broadcast_to(ramp, (1, 3, 256, 512)).copy()
    pair = pair_of(images, images, [0], names=("a", "b"), caption="c.")
    assert pair.side == (LARGEST, LARGEST // 2)
    assert pair.caption == "c. Shown at 192 x 96 of 512 x 256 pixels."
    picture = decoded(pair.before[0])
    assert picture.size == pair.side
    # A photograph is smaller as JPEG, an enlarged small image as PNG.
    noise = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    photograph = np.asarray(Image.fromarray(noise[0].transpose(1, 2, 0)).resize((160, 160)))
    enlarged = noise.repeat(8, axis=2).repeat(8, axis=3)
    for images, kind in ((photograph.transpose(2, 0, 1)[None], "JPEG"), (enlarged, "PNG")):
        shown = pair_of(images, images, [0], names=("a", "b"), caption="c.").before[0]
        assert decoded(shown).format == kind
    row = np.asarray(picture.convert("L"), dtype=float)[48]
    np.testing.assert_allclose(row, np.linspace(0, 255, LARGEST), atol=4)


def test_a_narrow_image_keeps_a_pixel_of_its_width_and_each_image_has_its_seed() -> None:
    images = np.zeros((2, 1, 2 * LARGEST * 3, 1), np.uint8)
    pair = pair_of(images, images, [3, 4], names=("a", "b"), caption="c.")
    assert pair.side == (1, LARGEST)
    assert decoded(pair.before[1]).size == (1, LARGEST)
    wide = images.transpose(0, 1, 3, 2)
    assert pair_of(wide, wide, [3, 4], names=("a", "b"), caption="c.").side == (LARGEST, 1)
    with pytest.raises(ValueError, match="zip"):
        pair_of(images, images, [3], names=("a", "b"), caption="c.")
