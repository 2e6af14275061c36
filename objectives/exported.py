"""A feature network of the user's own, exported as a program: TorchScript or torch.export.

    torch.jit.save(program, "mine.pt", _extra_files={"skiptune.json": '{"shape": [1, 32, 32]}'})
    torch.export.save(program, "mine.pt2", extra_files={"skiptune.json": '{"input": "float"}'})

Nothing in a checkpoint is ever executed. An exported file is no checkpoint but a program: it
brings the network's operations along, and naming it as `weights` of the extractor `exported` is
the wish to run them, as naming a script is. This is no sandbox: name only programs that you
would run. Python objects stay refused all the same: a pickled module (`torch.save(network)`),
and every pickle or machine code inside a `.pt2`, which `torch.export.load` would execute, is
found before the file is loaded.

The file says what it takes in the extra file `skiptune.json`, a JSON object; all keys may be
left out:

    input   "uint8" (default): bytes [N, C, H, W], 0..255; or "float": float32 [N, C, H, W] in
            [-1, 1]. Only "float" has gradients.
    shape   [C, H, W] of the images that the program is tried with, [3, 32, 32] by default. It
            may accept others.
    name    What the extractor is called; by default `exported-` and the first eight digits of
            the file's SHA-256, so that a copy under another file name is the same extractor.

It gives float [N, d], each row from its image alone: a program whose features depend on the
batch (batch normalisation or dropout in training mode) is refused.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from skiptune.errors import ObjectiveError
from skiptune.objectives.names import EXPORTED, known_extractors

__all__ = ["DECLARATION", "SUFFIXES", "Declaration", "Program", "load", "tried"]

DECLARATION = "skiptune.json"
"""The extra file that says what a program takes."""

SUFFIXES = (".pt", ".ts", ".pt2")

_INPUTS = {
    "uint8": "uint8 [N, C, H, W] as they are, by the exported program",
    "float": "uint8 [N, C, H, W], x / 127.5 - 1, by the exported program",
}
# What in a `.pt2` becomes a tensor, a graph or text when it is loaded.
_HARMLESS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|extra/.+|models/.+"
    r"|data/(weights/weight|constants/tensor)_\d+"
)
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Rounding of float32 in another order, against the largest feature.
_TOLERANCE = 1e-4
_TRIED = 4
_EXPORT = "export the network again, see the module skiptune.objectives.exported"


@dataclass(frozen=True)
class Declaration:
    """What a program takes and is called.

    Arguments:
        input: `uint8` or `float`.
        shape: C, H, W of images to try it with.
        name: Of the extractor.
    """

    input: str
    shape: tuple[int, int, int]
    name: str

    @property
    def preprocess(self) -> str:
        """What happens to the pixels before the program, in words."""
        return _INPUTS[self.input]


class Program(nn.Module):
    """An exported program behind the interface of a feature network.

    Arguments:
        program: TorchScript module or torch.export program.
        declaration: What it takes.
    """

    def __init__(self, program: nn.Module | ExportedProgram, declaration: Declaration) -> None:
        super().__init__()
        self.declaration = declaration
        self._graph = program if isinstance(program, ExportedProgram) else None
        # Tells where a program without parameters runs.
        self.register_buffer("place", torch.zeros(()), persistent=False)
        self.program = _module_of(program, "cpu")

    def to(self, device: str | torch.device) -> Program:  # type: ignore[override]
        """Move the program; the graph of torch.export names its device in its operations too."""
        if self._graph is not None:
            self.program = _module_of(self._graph, device)
        moved: Program = super().to(device)
        return moved

    def forward(self, levels: Tensor) -> Tensor:
        """Return the features.

        Arguments:
            levels: uint8 [N, C, H, W]; float32 in 0..255 as well where the program takes floats.

        Returns:
            What the program returns: float [N, d] once `tried` has passed.

        Raises:
            ObjectiveError: When the program fails on these images.
        """
        taken = levels
        if self.declaration.input == "float":
            taken = levels.to(torch.float32) / 127.5 - 1
        try:
            features: Tensor = self.program(taken)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ObjectiveError(
                f"images for {self.declaration.name}",
                expected="images that the exported program takes, in batches of any size",
                found=f"{taken.dtype} {list(taken.shape)}: {lines[-1]}",
                hint=f"state `input` and `shape` in its {DECLARATION}, or {_EXPORT}",
            ) from error
        return features


def load(path: Path, *, sha256: str) -> Program:
    """Load a program on the CPU.

    Arguments:
        path: TorchScript (`.pt`, `.ts`) or torch.export (`.pt2`).
        sha256: Of the file.

    Raises:
        ObjectiveError: When the file is something else, holds Python objects or machine code,
            or declares what is not understood.
    """
    if path.suffix not in SUFFIXES:
        raise ObjectiveError(
            str(path),
            expected="a program exported to a file ending in " + ", ".join(SUFFIXES),
            found=f"a file ending in {path.suffix!r}",
            hint=_EXPORT,
        )
    names = _members(path)
    program: nn.Module | ExportedProgram
    if path.suffix == ".pt2":
        _refuse_pickles(path, names)
        program, text = _of_export(path)
    else:
        program, text = _of_script(path, names)
    return Program(program, _declared(path, text, sha256))


def tried(program: Program, path: Path) -> int:
    """Run a program on noise, alone and in halves, and return its number of features d.

    Raises:
        ObjectiveError: When it fails, returns something else than float [N, d], or gives an
            image other features in another batch.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (_TRIED, *program.declaration.shape)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        whole = program(images)
        found = _described(whole)
        if found is not None:
            raise ObjectiveError(
                f"{path}: features",
                expected=f"one tensor of floats [{_TRIED}, d] for {_TRIED} images",
                found=found,
                hint="export a network that returns pooled features and nothing else",
            )
        halves = torch.cat([program(half) for half in images.split(_TRIED // 2)])
    furthest = float((halves - whole).abs().max()) if halves.shape == whole.shape else torch.inf
    largest = float(whole.abs().max())
    # NaN fails as well.
    if not furthest <= _TOLERANCE * largest:
        raise ObjectiveError(
            f"{path}: features",
            expected="the same features for an image in every batch",
            found=f"features up to {largest:.3g} that move by {furthest:.3g} in a half batch",
            hint="call network.eval() before you export it",
        )
    return int(whole.shape[1])


def _members(path: Path) -> list[str]:
    """Return the names in an archive without its top folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError) as error:
        raise _no_program(path, str(error)) from error
    if len(set(names)) < len(names):  # readers may differ in which of two they take
        raise _no_program(path, "an archive with two members of one name")
    return names


def _module_of(program: nn.Module | ExportedProgram, device: str | torch.device) -> nn.Module:
    module: nn.Module
    if isinstance(program, ExportedProgram):
        module = move_to_device_pass(program, torch.device(device)).module()
    else:
        module = program
    for parameter in module.parameters():  # a ScriptModule has no requires_grad_ of its own
        parameter.requires_grad_(False)
    return module


def _of_script(path: Path, names: list[str]) -> tuple[nn.Module, str]:
    # What torch.save writes has data.pkl but no code: it needs Python's pickle to be read.
    if "constants.pkl" not in names or not any(name.startswith("code/") for name in names):
        raise _no_program(path, "an archive without TorchScript code, e.g. a checkpoint")
    extra = {DECLARATION: ""}
    try:
        with warnings.catch_warnings():
            # torch calls TorchScript deprecated; the files that exist still have to be read.
            warnings.simplefilter("ignore")
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    except (RuntimeError, ValueError, OSError) as error:
        raise _no_program(path, str(error)) from error
    text = extra[DECLARATION]
    return module.eval(), text.decode() if isinstance(text, bytes) else text


def _of_export(path: Path) -> tuple[ExportedProgram, str]:
    extra: dict[str, Any] = {DECLARATION: ""}  # an empty one would not be filled
    try:
        program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # the deserialiser raises whatever a damaged graph leads to
        raise _no_program(path, str(error)) from error
    return program, str(extra[DECLARATION])


def _refuse_pickles(path: Path, names: list[str]) -> None:
    """Refuse a `.pt2` in which `torch.export.load` would unpickle Python or link machine code."""
    with zipfile.ZipFile(path) as archive:
        for name, full in zip(names, archive.namelist(), strict=True):
            if name.startswith("data/sample_inputs/"):
                _refuse_pickle(path, name, archive.read(full))
            elif re.fullmatch(r"data/(weights|constants)/\w+\.json", name):
                _refuse_pickled_payload(path, name, archive.read(full))
            elif not _HARMLESS.fullmatch(name):
                raise _no_program(path, f"{name}, which is no part of a plain program")


def _refuse_pickled_payload(path: Path, name: str, content: bytes) -> None:
    """Refuse a list of tensors of which one is kept as a pickle."""
    try:
        plain = all(
            _PAYLOAD.fullmatch(payload["path_name"]) and not payload["use_pickle"]
            for payload in json.loads(content)["config"].values()
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_program(path, f"{name}, which lists no tensors") from error
    if not plain:
        raise _no_program(path, f"a pickled object listed in {name}")


def _refuse_pickle(path: Path, name: str, content: bytes) -> None:
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # a hostile pickle may lead to anything
        raise _no_program(path, f"a pickled object in {name}") from error


def _declared(path: Path, text: str, sha256: str) -> Declaration:
    where = f"{path}: {DECLARATION}"
    try:
        values = json.loads(text) if text else {}
        if not isinstance(values, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise ObjectiveError(
            where, expected="a JSON object", found=str(error), hint=_EXPORT
        ) from error
    unknown = sorted(values.keys() - {"input", "shape", "name"})
    if unknown:
        raise ObjectiveError(
            where, expected="the keys input, shape, name", found=", ".join(unknown), hint=_EXPORT
        )
    kind = values.get("input", "uint8")
    if kind not in _INPUTS:
        raise ObjectiveError(
            f"{where}: input",
            expected=" or ".join(map(json.dumps, _INPUTS)),
            found=json.dumps(kind),
            hint=_EXPORT,
        )
    shape = values.get("shape", [3, 32, 32])
    if not (
        isinstance(shape, list)
        and len(shape) == 3
        and all(type(side) is int and side > 0 for side in shape)
    ):
        raise ObjectiveError(
            f"{where}: shape",
            expected="three whole numbers above 0: [C, H, W]",
            found=json.dumps(shape),
            hint=_EXPORT,
        )
    name = values.get("name", f"{EXPORTED}-{sha256[:8]}")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in known_extractors():
        raise ObjectiveError(
            f"{where}: name",
            expected="lower-case letters, digits, . _ -, and no other extractor's name",
            found=json.dumps(name),
            hint=_EXPORT,
        )
    channels, height, width = shape
    return Declaration(kind, (channels, height, width), name)


def _described(features: object) -> str | None:
    """Return what a program gave where it is not float [N, d]; None where it is."""
    if not isinstance(features, Tensor):
        return type(features).__name__
    fits = features.ndim == 2 and len(features) == _TRIED and features.shape[1] > 0
    if not fits or not features.is_floating_point():
        return f"{str(features.dtype).removeprefix('torch.')} {list(features.shape)}"
    if not bool(features.isfinite().all()):
        return "NaN or infinity"
    return None


def _no_program(path: Path, found: str) -> ObjectiveError:
    return ObjectiveError(
        str(path),
        expected="a program saved by torch.jit.save (.pt, .ts) or torch.export.save (.pt2)",
        found=(found.strip() or "something else").splitlines()[0],
        hint=_EXPORT,
    )
