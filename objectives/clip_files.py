"""The files of a CLIP model as transformers saves it: which decide about its scores, their hash.

A model is a folder with its configuration, weights as safetensors, the files of its tokenizer,
and what its processor does with an image (`preprocessor_config.json`, or the part
`image_processor` of `processor_config.json`). Files of code and pickles are not looked at.

This module costs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skiptune.canonical import digest, file_digest
from skiptune.errors import ObjectiveError, Problem
from skiptune.sampling.pipeline_files import weight_files

__all__ = ["CLIPFiles", "Preprocessing", "clip_files"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin")
# Whatever of these there is decides about a prompt's tokens.
_TOKENIZER = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_BICUBIC = 3  # Pillow's number
_MOST_JSON = 1 << 24
_SAVE = (
    "save model and processor into one folder: model.save_pretrained(FOLDER),"
    " processor.save_pretrained(FOLDER)"
)


@dataclass(frozen=True)
class Preprocessing:
    """What a processor does with a square image.

    Arguments:
        size: Height and width that it is brought to.
        crop: Height and width of what is cut out of its middle.
        factor: Bytes are multiplied by it.
        mean: Then subtracted, by channel.
        std: Then divided by, by channel.
    """

    size: int
    crop: int
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def describe(self) -> str:
        """Return it in words, which identify it."""
        mean, std = (",".join(f"{value:.9g}" for value in row) for row in (self.mean, self.std))
        return (
            f"bytes, bicubic antialiased to {self.size} (width, then height, each rounded),"
            f" centre {self.crop}, x {self.factor:.9g}, - {mean}, / {std}"
        )


@dataclass(frozen=True)
class CLIPFiles:
    """Where the parts of a model are.

    Arguments:
        folder: Of the model.
        weights: Files of its weights, at least one.
        tokenizer: Files of its tokenizer.
        preprocessing: What its processor does with an image.
    """

    folder: Path
    weights: tuple[Path, ...]
    tokenizer: tuple[Path, ...]
    preprocessing: Preprocessing

    def digest(self) -> tuple[str, int]:
        """Return the hash that stands for the model, and how many bytes it is made of.

        How a processor writes down what it does is no part of it, and the folder's name is none.

        Raises:
            ObjectiveError: A file cannot be read.
        """
        config = self.folder / CONFIG
        try:
            hashes = {
                "config": file_digest(config),
                "weights": [file_digest(path) for path in self.weights],
                "tokenizer": {path.name: file_digest(path) for path in self.tokenizer},
                "preprocess": self.preprocessing.describe(),
            }
            files = (config, *self.weights, *self.tokenizer)
            return digest(hashes), sum(path.stat().st_size for path in files)
        except OSError as error:
            raise _unreadable(Path(error.filename or self.folder), error) from error


def clip_files(folder: str | Path) -> CLIPFiles:
    """Find the parts of a CLIP model.

    Raises:
        ObjectiveError: For a folder that holds no CLIP model, with everything that is missing;
            for weights that are pickles; for a processor that does something else with an image.
    """
    folder = Path(folder)
    config = folder / CONFIG
    if not config.is_file():
        raise ObjectiveError(
            str(folder),
            expected=f"the folder of a CLIP model, with {CONFIG}",
            found="a folder without it" if folder.is_dir() else "no such folder",
            hint="name one that model.save_pretrained(FOLDER) has written, or OWNER/NAME after"
            " `hf download OWNER/NAME`",
        )
    kind = _read_json(config).get("model_type")
    if kind != "clip":
        raise ObjectiveError(
            f"{config}: model_type",
            expected="clip, a model with an encoder of images and one of text",
            found=str(kind)[:60],
            hint="name the folder of a CLIPModel of transformers",
        )
    problems: list[Problem] = []
    weights = weight_files(folder, problems, names=(WEIGHTS,), pickles=_PICKLES, read=_read_json)
    tokenizer = tuple(folder / name for name in _TOKENIZER if (folder / name).is_file())
    names = {path.name for path in tokenizer}
    if not ("tokenizer.json" in names or {"vocab.json", "merges.txt"} <= names):
        expected = "tokenizer.json, or vocab.json and merges.txt"
        problems.append(Problem(f"{folder}: tokenizer", expected, "neither"))
    preprocessing = _preprocessing(folder, problems)
    if problems or preprocessing is None:
        raise ObjectiveError.of(problems, hint=_SAVE)
    return CLIPFiles(folder, weights, tokenizer, preprocessing)


def _preprocessing(folder: Path, problems: list[Problem]) -> Preprocessing | None:
    """Return what the processor says, or None with a problem."""
    place = next((folder / name for name in _PROCESSORS if (folder / name).is_file()), None)
    if place is None:
        expected = f"the file {_PROCESSORS[0]}, which says how images are prepared"
        problems.append(Problem(f"{folder}: processor", expected, "no such file"))
        return None
    plain = _read_json(place)
    if place.name == _PROCESSORS[1]:
        inside = plain.get("image_processor")
        plain = inside if isinstance(inside, dict) else {}
    before = len(problems)

    def take(key: str, default: Any, expected: str, read: Any) -> Any:
        value = plain.get(key, default)
        try:
            found = read(value)
        except (TypeError, ValueError, KeyError):
            found = None
        if found is None:
            problems.append(Problem(f"{place}: {key}", expected, repr(value)[:80]))
        return found

    for step in ("resize", "center_crop", "rescale", "normalize"):
        take(f"do_{step}", True, "true, as CLIP was trained", lambda value: value or None)
    take("resample", _BICUBIC, "3 (bicubic)", lambda value: True if value == _BICUBIC else None)
    square = "a whole number, or a mapping to one: a square image stays square"
    size = take("size", None, square, _side)
    crop = take("crop_size", None, square, _side)
    factor = take("rescale_factor", 1 / 255, "a number above 0", _positive)
    mean = take("image_mean", None, "three numbers", lambda row: _row(row, float))
    std = take("image_std", None, "three numbers above 0", lambda row: _row(row, _positive))
    if size and crop and crop > size:
        problems.append(Problem(f"{place}: crop_size", f"at most the size, {size}", str(crop)))
    if len(problems) > before:
        return None
    return Preprocessing(size, crop, factor, mean, std)


def _side(value: Any) -> int | None:
    """Return the one length that a size gives a square image, None where there are two."""
    if isinstance(value, Mapping):
        named = {k: v for k, v in value.items() if v is not None}
        if named.keys() not in ({"shortest_edge"}, {"height", "width"}):
            return None
        lengths = set(named.values())
        value = lengths.pop() if len(lengths) == 1 else None
    return value if type(value) is int and value > 0 else None


def _positive(value: Any) -> float | None:
    number = float(value)
    return number if 0 < number < float("inf") else None


def _row(row: Any, read: Any) -> tuple[float, ...] | None:
    numbers = tuple(read(value) for value in row)
    return None if len(numbers) != 3 or None in numbers else numbers


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_JSON + 1)
        if len(text) > _MOST_JSON:
            raise ValueError(f"more than {_MOST_JSON} bytes")
        plain = json.loads(text)
        if not isinstance(plain, dict):
            raise ValueError(f"a {type(plain).__name__}")
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise ObjectiveError(
            str(path),
            expected="a JSON object",
            found=str(error)[:200],
            hint="take the file that came with the model",
        ) from error
    return plain


def _unreadable(path: Path, error: OSError) -> ObjectiveError:
    return ObjectiveError(
        str(path),
        expected="a readable file",
        found=error.strerror or str(error),
        hint="check the file's permissions",
    )
