"""Images from files: a folder, a zip, a numpy array file, or images that come with skiptune.

One rule for colours: images are read as they are stored, bytes of gray [1, H, W] or of red,
green and blue [3, H, W], all alike. An extractor that wants three channels repeats the gray one
itself. A palette without transparency is RGB, black and white is gray. Everything that would
have to be guessed is refused, with all such files named at once: alpha, 16 bit, animations,
other colour spaces, gray among RGB (unless gray is asked to be read as RGB), mixed sizes.

Sizes and colours are known from the files' headers before an image is decoded, and images are
decoded block by block, so memory does not grow with their number. The order is that of the
sorted paths; arrays keep theirs. Rotations that a camera noted (EXIF) are not applied, as in
torch-fidelity. No torch.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from skiptune.errors import ObjectiveError, Problem
from skiptune.objectives.image_arrays import open_arrays
from skiptune.objectives.names import ASSETS

__all__ = ["BLOCK", "BUNDLED_IMAGES", "ImageSource", "load_images", "open_images"]

BUNDLED_IMAGES = ("fashion-test",)
"""Images that come with skiptune: 1000 of the test images of Fashion-MNIST, padded to 32x32."""

BLOCK = 250
"""Images that are decoded at once: one chunk."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
LABELS = "dataset.json"  # EDM's dataset_tool writes labels under this name

_SHOWN = 3
_GRAY, _RGB = 1, 3
_MODES = {"L": _GRAY, "1": _GRAY, "RGB": _RGB, "P": _RGB}
_UNREADABLE = (
    OSError,
    SyntaxError,  # PIL's word for a broken PNG
    ValueError,
    EOFError,
    IndexError,
    RuntimeError,  # zipfile's word for a password
    zipfile.BadZipFile,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

Read = Callable[[int, int], NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Images that can be read block by block, all of one shape.

    Arguments:
        name: What a person called them.
        kind: `folder`, `zip`, `arrays` or `bundled`.
        count: Images N.
        shape: Channels (1 or 3), height, width.
        listing: SHA-256 of what identifies the files without decoding them: names, sizes and
            times of change in a folder, checksums in a zip or npz.
        labels: int64 [N] where the files hold labels, else None.
        reading: Opens the files; gives a function (start, stop) -> uint8 [stop - start, C, H, W].
    """

    name: str
    kind: str
    count: int
    shape: tuple[int, int, int]
    listing: str
    labels: NDArray[np.int64] | None
    reading: Callable[[], AbstractContextManager[Read]]

    def first(self, images: int | None) -> ImageSource:
        """Return the first images only; None leaves all.

        Raises:
            ObjectiveError: When there are fewer.
        """
        if images is None:
            return self
        if not 1 <= images <= self.count:
            raise ObjectiveError(
                self.name,
                expected=f"at least {images:,} images" if images > 0 else "a count of at least 1",
                found=f"{self.count:,} images" if images > 0 else f"{images}",
                hint=f"ask for at most {self.count:,} of them",
            )
        labels = None if self.labels is None else self.labels[:images]
        return replace(self, count=images, labels=labels)

    def blocks(self, start: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Yield the images from number `start` on, uint8 [B, C, H, W], `BLOCK` at a time.

        Raises:
            ObjectiveError: Naming a file that cannot be decoded.
        """
        with self.reading() as read:
            for begin in range(start, self.count, BLOCK):
                yield read(begin, min(begin + BLOCK, self.count))


def open_images(where: Path | str, *, images: int | None = None, rgb: bool = False) -> ImageSource:
    """Look at images and refuse what cannot be read as it is; nothing is decoded yet.

    Arguments:
        where: A name of `BUNDLED_IMAGES`; a folder, read with all folders in it but hidden ones;
            a zip of image files; an npz or npy of uint8 [N, H, W, C], [N, C, H, W] or [N, H, W].
        images: The first so many only; None takes all.
        rgb: Read gray images as RGB, by repeating the channel.

    Raises:
        ObjectiveError: With everything that is wrong at once.
    """
    path, kind = Path(where), ""
    if str(where) in BUNDLED_IMAGES:
        path, kind = ASSETS / f"{where}.npz", "bundled"
    if path.is_dir():
        source = _of_files(_Folder(path), str(where), rgb=rgb)
    elif path.suffix.lower() in (".npz", ".npy") and path.is_file():
        found = open_arrays(path)
        source = ImageSource(
            str(where), kind or "arrays", found.count, found.shape, found.listing, found.labels,
            found.reading,
        )  # fmt: skip
    elif path.is_file() and zipfile.is_zipfile(path):
        source = _of_files(_Zip(path), str(where), rgb=rgb)
    else:
        near = difflib.get_close_matches(str(where), BUNDLED_IMAGES, n=1)
        raise ObjectiveError(
            str(where),
            expected=f"a folder, a zip, an npz or npy file, or {', '.join(BUNDLED_IMAGES)}",
            found="no such file" if not path.exists() else "a file of another kind",
            hint=f"did you mean {near[0]}?" if near else "give the path of the images",
        )
    if rgb and source.shape[0] == _GRAY:
        source = replace(
            source,
            shape=(_RGB, *source.shape[1:]),
            listing=hashlib.sha256(f"rgb {source.listing}".encode()).hexdigest(),
            reading=lambda gray=source.reading: _repeated(gray),  # type: ignore[misc]
        )
    return source.first(images)


def load_images(
    where: Path | str, *, images: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """Read images into memory.

    Arguments:
        where: As for `open_images`, e.g. `fashion-test`.
        images: The first so many only; None reads all.

    Returns:
        uint8 [N, C, H, W], and labels int64 [N] or None.

    Raises:
        ObjectiveError: As `open_images`; also for a file that cannot be decoded.
    """
    source = open_images(where, images=images)
    return np.concatenate(list(source.blocks())), source.labels


class _Store(Protocol):
    """Named files: a folder or a zip."""

    @property
    def kind(self) -> str:
        """`folder` or `zip`."""

    def listing(self) -> tuple[list[str], str]:
        """Return the files' names, sorted, and what identifies their content."""

    def opened(self) -> AbstractContextManager[Callable[[str], BinaryIO]]:
        """Give a function that opens a file of the store."""


@dataclass(frozen=True)
class _Folder:
    path: Path
    kind: str = "folder"

    def listing(self) -> tuple[list[str], str]:
        names, digest = [], hashlib.sha256()
        seen = {self.path.resolve()}
        for folder, inner, files in os.walk(self.path, followlinks=True):
            # A link to a folder above would never end.
            inner[:] = [
                name
                for name in inner
                if not name.startswith(".")
                and (place := (Path(folder) / name).resolve()) not in seen
                and not seen.add(place)  # type: ignore[func-returns-value]
            ]
            names += [
                (Path(folder) / name).relative_to(self.path).as_posix()
                for name in files
                if not name.startswith(".")
            ]
        names.sort()
        for name in names:
            about = (self.path / name).stat()
            line = f"{name}\0{about.st_size}\0{about.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
        return names, digest.hexdigest()

    @contextmanager
    def opened(self) -> Iterator[Callable[[str], BinaryIO]]:
        yield lambda name: open(self.path / name, "rb")


@dataclass(frozen=True)
class _Zip:
    path: Path
    kind: str = "zip"

    def listing(self) -> tuple[list[str], str]:
        with zipfile.ZipFile(self.path) as file:
            members = {member.filename: member for member in file.infolist()}
        names = sorted(
            name
            for name, member in members.items()
            if not member.is_dir()
            and not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
        )
        lines = (f"{name}\0{members[name].file_size}\0{members[name].CRC}\n" for name in names)
        return names, hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()

    @contextmanager
    def opened(self) -> Iterator[Callable[[str], BinaryIO]]:
        with zipfile.ZipFile(self.path) as file:
            yield lambda name: BytesIO(file.read(name))


def _of_files(store: _Store, name: str, *, rgb: bool) -> ImageSource:
    """Read every header, and refuse whatever does not fit, all at once."""
    try:
        names, listing = store.listing()
    except (OSError, zipfile.BadZipFile) as error:
        raise ObjectiveError(
            name, expected=f"a {store.kind} that can be read", found=str(error),
            hint="check the file and its permissions",
        ) from None  # fmt: skip
    images = [member for member in names if member != LABELS]
    wrong = _Wrong(name)
    shapes: dict[str, tuple[int, int, int]] = {}
    with store.opened() as open_file:
        for member in images:
            try:
                with open_file(member) as file, _image(file) as image:
                    reason = _reason(image)
                    if reason:
                        wrong.add(reason, member)
                    else:
                        shapes[member] = (_MODES[image.mode], image.height, image.width)
            except UnidentifiedImageError:
                wrong.add(_NO_IMAGE, member)
            except _UNREADABLE as error:
                wrong.add(_BROKEN, f"{member} ({error})")
        labels = None
        if LABELS in names:
            try:
                with open_file(LABELS) as file:
                    text = file.read()
            except _UNREADABLE as error:
                wrong.add(_BROKEN, f"{LABELS} ({error})")
            else:
                labels = _labels(text, images, f"{name}/{LABELS}")
    if not images:
        wrong.problems.append(
            Problem(name, f"image files ({', '.join(FORMATS)})", f"an empty {store.kind}")
        )
        wrong.hints.append("give the folder that holds the images")
    shape = wrong.mixed(shapes, rgb=rgb)
    if wrong.problems or wrong.groups:
        raise wrong.error(len(images))
    read = _reader(store, name, images, gray=shape[0] == _GRAY)
    return ImageSource(name, store.kind, len(images), shape, listing, labels, read)


# Why a file is refused: what was expected instead, and what to do.
_NO_IMAGE = ("image files only", "no image", "move what is no image out of the folder")
_BROKEN = ("image files that can be read", "unreadable", "write the broken files again")
_ALPHA = (
    "images without alpha channel",
    "an alpha channel",
    "put transparent images on a background first: what lies behind them would be a guess",
)
_DEPTH = ("8 bits per channel", "16 bits or more", "convert the images to 8 bits first")
_FRAMES = ("one image in each file", "several frames", "write each frame to a file of its own")
_COLOURS = ("gray or RGB images", "another colour space", "convert the images to RGB first")


class _Wrong:
    """Everything that is wrong with a set of files."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.groups: dict[tuple[str, str, str], list[str]] = {}
        self.problems: list[Problem] = []
        self.hints: list[str] = []

    def add(self, reason: tuple[str, str, str], member: str) -> None:
        self.groups.setdefault(reason, []).append(member)

    def mixed(
        self, shapes: Mapping[str, tuple[int, int, int]], *, rgb: bool
    ) -> tuple[int, int, int]:
        """Note mixed sizes and colours; return the shape of all images where they are alike."""
        if not shapes:
            return (_GRAY, 0, 0)
        sizes = {member: f"{w}x{h}" for member, (_, h, w) in shapes.items()}
        colours = {member: "gray" if c == _GRAY else "RGB" for member, (c, _, _) in shapes.items()}
        for what, values, hint in (
            ("images of one size", sizes, "resize or crop the images to one size first"),
            (
                "all images gray or all RGB",
                {} if rgb else colours,
                "convert them to one kind, or read gray images as RGB with --rgb",
            ),
        ):
            counts = Counter(values.values())
            if len(counts) > 1:
                examples = {kind: member for member, kind in reversed(values.items())}
                found = [
                    f"{count:,} of {kind} ({examples[kind]})"
                    for kind, count in counts.most_common(_SHOWN)
                ]
                more = len(counts) - len(found)
                found += [f"{more} more kinds"] if more > 0 else []
                self.problems.append(Problem(self.name, what, ", ".join(found)))
                self.hints.append(hint)
        first = next(iter(shapes.values()))
        channels = max(channels for channels, _, _ in shapes.values())
        return (channels, first[1], first[2])

    def error(self, images: int) -> ObjectiveError:
        for (expected, found, hint), members in self.groups.items():
            shown = ", ".join(members[:_SHOWN])
            more = f" and {len(members) - _SHOWN:,} more" if len(members) > _SHOWN else ""
            count = f"in {len(members):,} of {images:,} files" if images > 1 else "in the file"
            self.problems.append(Problem(self.name, expected, f"{found} {count}: {shown}{more}"))
            self.hints.append(hint)
        error = ObjectiveError.of(self.problems, hint="; ".join(self.hints))
        assert isinstance(error, ObjectiveError)
        return error


@contextmanager
def _image(file: BinaryIO) -> Iterator[Image.Image]:
    """Open an image; PIL's warnings about what a file holds are errors of the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Image.open(file, formats=FORMATS) as image:
            yield image


def _reason(image: Image.Image) -> tuple[str, str, str] | None:
    """Return why an image is refused, from its header alone; None where it is not."""
    # PIL cuts a 16-bit RGB PNG down to 8 bits by itself; only its way of unpacking tells.
    tiles = getattr(image, "tile", ())
    unpackings = (tile[3][0] if isinstance(tile[3], tuple) else tile[3] for tile in tiles)
    if image.mode.startswith(("I", "F")) or any("16" in str(raw) for raw in unpackings):
        return _DEPTH
    if "A" in image.mode.upper().replace("LAB", "") or "transparency" in image.info:
        return _ALPHA
    if image.mode not in _MODES:
        return _COLOURS
    return _FRAMES if getattr(image, "is_animated", False) else None


def _reader(
    store: _Store, name: str, members: Sequence[str], *, gray: bool
) -> Callable[[], AbstractContextManager[Read]]:
    mode = "L" if gray else "RGB"

    @contextmanager
    def reading() -> Iterator[Read]:
        with store.opened() as open_file:

            def read(start: int, stop: int) -> NDArray[np.uint8]:
                return np.stack([_decoded(open_file, name, m, mode) for m in members[start:stop]])

            yield read

    return reading


def _decoded(
    open_file: Callable[[str], BinaryIO], name: str, member: str, mode: str
) -> NDArray[np.uint8]:
    try:
        with open_file(member) as file, _image(file) as image:
            pixels = np.asarray(image.convert(mode), dtype=np.uint8)
    except _UNREADABLE as error:
        raise ObjectiveError(
            f"{name}: {member}",
            expected="an image that can be decoded whole",
            found=str(error) or type(error).__name__,
            hint="write this file again, or move it away, and run the command again",
        ) from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@contextmanager
def _repeated(reading: Callable[[], AbstractContextManager[Read]]) -> Iterator[Read]:
    with reading() as read:
        yield lambda start, stop: np.repeat(read(start, stop), _RGB, axis=1)


def _labels(text: bytes, images: Sequence[str], where: str) -> NDArray[np.int64] | None:
    """Return the labels of EDM's `dataset.json`: {"labels": [[name, number], ...]} or null."""
    try:
        pairs = json.loads(text)["labels"]
        if pairs is None:
            return None
        known = {str(name): label for name, label in pairs}
        labels = [known[name] for name in images]
        if not all(isinstance(label, int) for label in labels):
            raise ValueError("labels that are no whole numbers")
        return np.array(labels, dtype=np.int64)
    except (ValueError, KeyError, TypeError) as error:
        raise ObjectiveError(
            where,
            expected='{"labels": [[NAME, NUMBER], ...]} with every image, or null',
            found=f"{type(error).__name__}: {error}",
            hint="move the file away: labels are not needed",
        ) from None
