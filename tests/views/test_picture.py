"""Grids of images: every pixel where it belongs, and files that are whole or not there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from skiptune.errors import OutputError
from skiptune.views.picture import GAP, MARGIN, Row, folded, grid, png, write_picture


def noise(count: int, channels: int, size: int, *, seed: int = 0) -> NDArray[np.uint8]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, channels, size, size), dtype=np.uint8)


@pytest.mark.parametrize(("channels", "size", "scale"), [(1, 32, 2), (3, 32, 2), (3, 64, 1)])
def test_images_stand_in_rows_and_keep_their_pixels(channels: int, size: int, scale: int) -> None:
    rows = [Row("", noise(3, channels, size, seed=1)), Row("", noise(3, channels, size, seed=2))]
    pixels = np.asarray(grid(rows))
    step = size * scale + GAP
    assert pixels.shape == (2 * MARGIN + 2 * step - GAP, 2 * MARGIN + 3 * step - GAP, 3)
    for line, row in enumerate(rows):
        for column, image in enumerate(row.images):
            top, left = MARGIN + line * step, MARGIN + column * step
            shown = pixels[top : top + size * scale : scale, left : left + size * scale : scale]
            expected = np.broadcast_to(image.transpose(1, 2, 0), (size, size, 3))
            np.testing.assert_array_equal(shown, expected)


def test_a_caption_takes_room_and_leaves_ink_above_its_row() -> None:
    row = noise(4, 1, 32)
    plain, captioned = grid([Row("", row)]), grid([Row("baseline: 5.81", row)])
    head = captioned.height - plain.height
    assert head > 0
    above = np.asarray(captioned)[MARGIN : MARGIN + head]
    assert (above < 128).any()
    np.testing.assert_array_equal(
        np.asarray(captioned)[MARGIN + head :], np.asarray(plain)[MARGIN:]
    )


def test_a_long_row_is_folded_and_keeps_one_caption() -> None:
    row = Row("all", noise(10, 1, 8))
    parts = folded(row)
    assert [len(part.images) for part in parts] == [4, 4, 2]
    assert [part.caption for part in parts] == ["all", "", ""]
    np.testing.assert_array_equal(np.concatenate([p.images for p in parts]), row.images)
    assert [len(part.images) for part in folded(row, 16)] == [10]


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        grid([])
    with pytest.raises(ValueError, match="of one size"):
        grid([Row("", noise(2, 1, 8)), Row("", noise(2, 1, 16))])
    with pytest.raises(ValueError, match="1 or 3"):
        grid([Row("", noise(2, 2, 8))])


def test_the_file_holds_the_grid_and_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    rows = [Row("first", noise(2, 1, 32))]
    assert write_picture(path, rows) == path
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(grid(rows)))
    with pytest.raises(OutputError):
        write_picture(path, rows)
    write_picture(path, [Row("second", noise(3, 1, 32))], force=True)
    with Image.open(path) as image:
        assert image.size != grid(rows).size
    assert [file.name for file in tmp_path.iterdir()] == ["grid.png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_one_image_as_a_file_keeps_its_pixels(channels: int) -> None:
    [image] = noise(1, channels, 8)
    with Image.open(io.BytesIO(png(image))) as found:
        assert (found.format, found.mode) == ("PNG", "L" if channels == 1 else "RGB")
        shown = np.asarray(found)
    assert np.array_equal(shown[None] if channels == 1 else shown.transpose(2, 0, 1), image)
