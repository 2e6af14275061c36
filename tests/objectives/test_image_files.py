"""Images from files: what is read is what was written, and what would be a guess is refused."""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from skiptune.errors import ObjectiveError, render
from skiptune.objectives.image_files import BLOCK, ImageSource, load_images, open_images

Bytes = NDArray[np.uint8]


def noise(*shape: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_folder(folder: Path, images: Bytes, suffix: str = "png") -> Path:
    """Write images [N, H, W(, 3)] as sorted files."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
        Image.fromarray(image).save(folder / f"{index:05d}.{suffix}", **options)
    return folder


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for member in sorted(folder.rglob("*")):
            file.write(member, member.relative_to(folder))
    return path


def all_of(source: ImageSource) -> Bytes:
    return np.concatenate(list(source.blocks()))


def refusal(where: Path, **options: Any) -> str:
    with pytest.raises(ObjectiveError) as caught:
        open_images(where, **options)
    assert caught.value.hint
    return render(caught.value)


# What is read


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tiff"])
def test_a_folder_gives_back_rgb_images(tmp_path: Path, suffix: str) -> None:
    images = noise(7, 6, 5, 3)
    source = open_images(write_folder(tmp_path / "a", images, suffix))
    assert (source.kind, source.count, source.shape) == ("folder", 7, (3, 6, 5))
    np.testing.assert_array_equal(all_of(source), images.transpose(0, 3, 1, 2))


def test_gray_images_stay_one_channel_unless_rgb_is_asked_for(tmp_path: Path) -> None:
    images = noise(4, 6, 5)
    folder = write_folder(tmp_path / "a", images)
    source = open_images(folder)
    assert source.shape == (1, 6, 5)
    np.testing.assert_array_equal(all_of(source), images[:, None])
    repeated = open_images(folder, rgb=True)
    assert repeated.shape == (3, 6, 5)
    np.testing.assert_array_equal(all_of(repeated), np.repeat(images[:, None], 3, axis=1))
    assert repeated.listing != source.listing


def test_jpegs_are_decoded_as_pil_does(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", noise(3, 16, 16, 3), "jpg")
    wanted = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    np.testing.assert_array_equal(
        all_of(open_images(folder)), np.stack(wanted).transpose(0, 3, 1, 2)
    )


def test_palettes_are_rgb_and_black_and_white_is_gray(tmp_path: Path) -> None:
    image = Image.fromarray(noise(8, 8, 3))
    palette = tmp_path / "palette"
    palette.mkdir()
    image.quantize(16).save(palette / "a.png")
    image.quantize(16).save(palette / "b.gif")
    expected = np.asarray(image.quantize(16).convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(all_of(open_images(palette))[0], expected)
    two = tmp_path / "two"
    two.mkdir()
    image.convert("1").save(two / "a.png")
    found = all_of(open_images(two))
    assert found.shape == (1, 1, 8, 8) and set(np.unique(found)) == {0, 255}


def test_folders_are_read_recursively_in_the_order_of_paths(tmp_path: Path) -> None:
    images = noise(4, 5, 5)
    for name, image in zip(["b/1.png", "a/2.png", "c.png", "a/10.png"], images, strict=True):
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "f" / name)
    (tmp_path / "f" / ".hidden").mkdir()
    (tmp_path / "f" / ".hidden" / "text").write_text("not read")
    (tmp_path / "f" / ".DS_Store").write_text("not read")
    # A link to a folder is followed, one to a folder above ends.
    os.symlink(tmp_path / "f", tmp_path / "f" / "a" / "above")
    found = all_of(open_images(tmp_path / "f"))
    np.testing.assert_array_equal(found[:, 0], images[[3, 1, 0, 2]])


def test_a_zip_is_read_like_its_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", noise(5, 6, 6, 3))
    (folder / "sub").mkdir()
    Image.fromarray(noise(6, 6, 3, seed=1)).save(folder / "sub" / "x.png")
    source = open_images(zipped(folder, tmp_path / "a.zip"))
    assert (source.kind, source.count) == ("zip", 6)
    np.testing.assert_array_equal(all_of(source), all_of(open_images(folder)))


def test_edm_s_labels_are_read_from_zip_and_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", noise(3, 4, 4))
    pairs = [["00002.png", 7], ["00000.png", 5], ["00001.png", 6]]
    (folder / "dataset.json").write_text(json.dumps({"labels": pairs}))
    for place in (folder, zipped(folder, tmp_path / "a.zip")):
        labels = open_images(place).labels
        assert labels is not None
        np.testing.assert_array_equal(labels, [5, 6, 7])
    (folder / "dataset.json").write_text('{"labels": null}')
    assert open_images(folder).labels is None
    (folder / "dataset.json").write_text(json.dumps({"labels": pairs[:2]}))
    assert "dataset.json" in refusal(folder) and "00001.png" in refusal(folder)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("shape", "last"),
    [((9, 6, 5, 3), True), ((9, 3, 6, 5), False), ((9, 6, 5), False), ((9, 6, 5, 1), True)],
)
def test_arrays_are_read_with_either_place_of_channels(
    tmp_path: Path, save: Callable[..., None], shape: tuple[int, ...], last: bool
) -> None:
    images = noise(*shape)
    save(tmp_path / "a.npz", arr_0=images, arr_1=np.arange(9))
    source = open_images(tmp_path / "a.npz")
    expected = images[:, None] if images.ndim == 3 else images
    expected = expected.transpose(0, 3, 1, 2) if last else expected
    assert (source.kind, source.count, source.shape) == ("arrays", 9, expected.shape[1:])
    np.testing.assert_array_equal(all_of(source), expected)
    assert source.labels is not None
    np.testing.assert_array_equal(source.labels, np.arange(9))
    np.save(tmp_path / "a.npy", images)
    np.testing.assert_array_equal(all_of(open_images(tmp_path / "a.npy")), expected)


def test_the_array_is_found_by_name_or_as_the_only_one(tmp_path: Path) -> None:
    images = noise(3, 4, 4)
    np.savez(tmp_path / "a.npz", x=noise(3, 8, 8), images=images)
    np.testing.assert_array_equal(all_of(open_images(tmp_path / "a.npz"))[:, 0], images)
    np.savez(tmp_path / "b.npz", samples=images, about=np.array("text"))
    np.testing.assert_array_equal(all_of(open_images(tmp_path / "b.npz"))[:, 0], images)
    np.savez(tmp_path / "c.npz", x=images, y=images)
    assert "x [3, 4, 4], y [3, 4, 4]" in refusal(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", labels=np.arange(3))
    assert "labels [3]" in refusal(tmp_path / "d.npz")


def test_blocks_are_bounded_and_may_begin_anywhere(tmp_path: Path) -> None:
    images = noise(2 * BLOCK + 7, 3, 3)
    np.savez_compressed(tmp_path / "a.npz", images=images)
    np.savez(tmp_path / "b.npz", images=images)
    for name in ("a.npz", "b.npz"):
        source = open_images(tmp_path / name)
        assert [len(block) for block in source.blocks()] == [BLOCK, BLOCK, 7]
        tail = list(source.blocks(2 * BLOCK))
        np.testing.assert_array_equal(tail[0][:, 0], images[2 * BLOCK :])
        np.testing.assert_array_equal(np.concatenate(list(source.blocks(3)))[:, 0], images[3:])
        assert all(block.flags.writeable for block in tail)


def test_the_first_images_may_be_asked_for_and_not_more_than_there_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=noise(10, 3, 3), labels=np.arange(10))
    source = open_images(tmp_path / "a.npz", images=4)
    assert source.count == 4 and source.labels is not None and len(source.labels) == 4
    assert len(all_of(source)) == 4
    text = refusal(tmp_path / "a.npz", images=11)
    assert "at least 11 images" in text and "found: 10 images" in text
    assert "a count of at least 1" in refusal(tmp_path / "a.npz", images=0)


def test_test_images_come_with_skiptune() -> None:
    images, labels = load_images("fashion-test")
    assert images.shape == (1000, 1, 32, 32) and images.dtype == np.uint8
    assert labels is not None and labels.dtype == np.int64
    # A random sample of the classes: as many of each would not be one.
    counts = np.bincount(labels, minlength=10)
    assert counts.min() > 70 and counts.max() < 130 and counts.max() > counts.min()
    # Padded with two black pixels, as the network's training images.
    inner = images[:, :, 2:-2, 2:-2]
    assert int(images.sum(dtype=np.int64)) == int(inner.sum(dtype=np.int64)) > 0
    source = open_images("fashion-test")
    assert (source.kind, source.count) == ("bundled", 1000)


def test_the_bundled_images_are_held_out_ones(
    held_out: tuple[Bytes, NDArray[np.int64]],
) -> None:
    images, labels = load_images("fashion-test")
    assert labels is not None
    known = {image.tobytes(): label for image, label in zip(*held_out, strict=True)}
    found = [
        (known[image.tobytes()], label)
        for image, label in zip(images, labels, strict=True)
        if image.tobytes() in known
    ]
    # The data that tests hold are another selection of the same ten thousand.
    assert len(found) > 100
    assert all(expected == label for expected, label in found)


def test_what_identifies_files_changes_with_them(tmp_path: Path) -> None:
    images = noise(3, 4, 4)
    folder = write_folder(tmp_path / "a", images)
    before = open_images(folder).listing
    assert open_images(folder).listing == before
    Image.fromarray(noise(4, 4, seed=5)).save(folder / "00001.png")
    os.utime(folder / "00001.png", (1, 1))
    assert open_images(folder).listing != before
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    np.savez(first, images=images)
    np.savez(second, images=images)
    assert open_images(first).listing == open_images(second).listing
    np.savez(second, images=images[::-1])
    assert open_images(first).listing != open_images(second).listing


# What is refused


def png16(path: Path, colour: int) -> None:
    """Write a 16-bit PNG of 4x4 pixels; PIL writes none in RGB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    samples = 3 if colour == 2 else 1
    row = b"\0" + bytes(range(4 * 2 * samples))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, colour, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(row * 4))
        + chunk(b"IEND", b"")
    )


def test_everything_wrong_in_a_folder_is_said_at_once(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", noise(3, 4, 4, 3))
    for index in range(5):
        (folder / f"note{index}.txt").write_text("no image")
    Image.fromarray(noise(4, 4, 4)).save(folder / "alpha.png")
    Image.fromarray(noise(4, 4, 2), mode="LA").save(folder / "gray-alpha.png")
    clear = Image.fromarray(noise(4, 4, 3)).quantize(4)
    clear.save(folder / "clear.png", transparency=0)
    png16(folder / "deep-gray.png", 0)
    png16(folder / "deep-rgb.png", 2)
    frames = [Image.fromarray(noise(4, 4, seed=i)) for i in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(noise(4, 4, 4), mode="CMYK").save(folder / "print.jpg")
    Image.fromarray(noise(4, 6, 3)).save(folder / "wide.png")
    Image.fromarray(noise(4, 4)).save(folder / "gray.png")
    (folder / "broken.png").write_bytes((folder / "00000.png").read_bytes()[:20])
    for place in (folder, zipped(folder, tmp_path / "a.zip")):
        text = refusal(place)
        for words in (
            "no image in 5 of 18 files: note0.txt, note1.txt, note2.txt and 2 more",
            "an alpha channel in 3 of 18 files: alpha.png, clear.png, gray-alpha.png",
            "16 bits or more in 2 of 18 files: deep-gray.png, deep-rgb.png",
            "several frames in 1 of 18 files: moving.gif",
            "another colour space in 1 of 18 files: print.jpg",
            "4 of 4x4 (00000.png), 1 of 6x4 (wide.png)",
            "4 of RGB (00000.png), 1 of gray (gray.png)",
            "broken.png",
            "--rgb",
        ):
            assert words in text, f"{words!r} not in:\n{text}"


def test_gray_among_rgb_is_read_when_asked_for(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", noise(2, 4, 4, 3))
    gray = noise(4, 4)
    Image.fromarray(gray).save(folder / "z.png")
    source = open_images(folder, rgb=True)
    assert source.shape == (3, 4, 4)
    np.testing.assert_array_equal(all_of(source)[2], np.repeat(gray[None], 3, axis=0))


def test_an_image_cut_off_in_its_pixels_is_named_when_it_is_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", noise(3, 64, 64, 3))
    path = folder / "00001.png"
    path.write_bytes(path.read_bytes()[:-2000])
    source = open_images(folder)
    with pytest.raises(ObjectiveError, match=r"a: 00001\.png"):
        all_of(source)
    write_folder(tmp_path / "j", noise(3, 64, 64, 3), "jpg")
    path = tmp_path / "j" / "00002.jpg"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ObjectiveError, match=r"00002\.jpg"):
        all_of(open_images(tmp_path / "j"))


def test_a_locked_zip_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", noise(2, 4, 4))
    path = zipped(folder, tmp_path / "a.zip")
    data = bytearray(path.read_bytes())
    # The flag of encryption, in each member's own header and in the directory.
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + place] |= 1
            at = data.find(mark, at + 4)
    path.write_bytes(data)
    assert "password required" in refusal(path)


def test_names_that_are_no_text_are_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", noise(2, 4, 4))
    os.rename(os.fsencode(folder / "00001.png"), os.fsencode(folder) + b"/\xff.png")
    assert open_images(folder).count == 2


def test_empty_and_missing_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "an empty folder" in refusal(tmp_path / "empty")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    assert "an empty zip" in refusal(tmp_path / "empty.zip")
    assert "no such file" in refusal(tmp_path / "none")
    (tmp_path / "text.txt").write_text("hello")
    assert "a file of another kind" in refusal(tmp_path / "text.txt")
    with pytest.raises(ObjectiveError, match="did you mean fashion-test"):
        open_images("fashion-tset")


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((3, 4, 4, 3), np.float32), "float32"),
        (np.zeros((3, 4, 4, 3), np.uint16), "16 bits or more"),
        (np.zeros((3, 4, 4, 4), np.uint8), "an alpha channel"),
        (np.zeros((3, 3, 4, 3), np.uint8), r"\[3, 3, 4, 3\]"),
        (np.zeros((3, 5, 5, 5), np.uint8), r"\[3, 5, 5, 5\]"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"\[0, 4, 4, 3\]"),
        (np.zeros((3, 4), np.uint8), r"\[3, 4\]"),
        (np.asfortranarray(np.zeros((3, 4, 4), np.uint8)), "Fortran"),
        (np.array([{"a": 1}], dtype=object), "object"),
    ],
)
def test_arrays_that_are_no_images_are_refused(
    tmp_path: Path, array: NDArray[Any], found: str
) -> None:
    np.savez(tmp_path / "a.npz", images=array)
    with pytest.raises(ObjectiveError, match=found):
        open_images(tmp_path / "a.npz")


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=noise(50, 8, 8))
    whole = (tmp_path / "a.npz").read_bytes()
    for name in ("b.npz", "b.zip"):
        (tmp_path / name).write_bytes(whole[:1000])
        refusal(tmp_path / name)
    (tmp_path / "text.npz").write_text("hello")
    assert "a numpy file of images" in refusal(tmp_path / "text.npz")
    # Whole but for a flipped bit: the checksum tells when it is read.
    np.savez(tmp_path / "a.npz", images=noise(5000, 8, 8))
    flipped = bytearray((tmp_path / "a.npz").read_bytes())
    flipped[100_000] ^= 1
    (tmp_path / "c.npz").write_bytes(flipped)
    with pytest.raises(ObjectiveError, match="read whole"):
        all_of(open_images(tmp_path / "c.npz"))
    np.save(tmp_path / "d.npy", noise(50, 8, 8))
    (tmp_path / "d.npy").write_bytes((tmp_path / "d.npy").read_bytes()[:-10])
    with pytest.raises(ObjectiveError, match="end of the file"):
        all_of(open_images(tmp_path / "d.npy"))
