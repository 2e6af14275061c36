"""NVIDIA's own files of EDM and EDM2 networks: configuration and weights, without their code.

    EDM    training pickle: dict with `ema` (float32), loss_fn, augment_pipe, dataset_kwargs
    EDM2   the same with `ema` in float16 and an encoder
    both   or the network alone

A network is a preconditioner (VPPrecond, VEPrecond, iDDPMPrecond, EDMPrecond; Precond in EDM2)
around a model (SongUNet, DhariwalUNet; UNet in EDM2); both remember the arguments they were made
with. Facts from github.com/NVlabs/edm (training/networks.py, training_loop.py) and NVlabs/edm2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from skiptune.canonical import file_digest
from skiptune.errors import NetworkError
from skiptune.sampling.first_stage import FirstStage
from skiptune.sampling.storages import Tensors, number
from skiptune.sampling.unpickling import Call, Record, read_records

__all__ = ["LICENCE", "LICENCE_NOTE", "Official", "read_official"]

LICENCE = "CC BY-NC-SA 4.0"
"""Of the weights that NVIDIA publishes with EDM and EDM2."""

LICENCE_NOTE = (
    f"{LICENCE} where the file is one of NVIDIA's EDM or EDM2: non-commercial use; copies and"
    " changed weights keep this licence"
)
"""What a card of such weights says."""

# Class of the preconditioner: our word for it, and the attribute that holds the model.
_PRECONDS = {
    "VPPrecond": ("vp", "model"),
    "VEPrecond": ("ve", "model"),
    "iDDPMPrecond": ("iddpm", "model"),
    "EDMPrecond": ("edm", "model"),
    "Precond": ("edm2", "unet"),
}
_MODELS = ("SongUNet", "DhariwalUNet", "UNet")
_DEFAULT_MODEL = "SongUNet"
_DEFAULT_SIGMA_DATA = 0.5
# What a preconditioner is told that says nothing about its network: how to compute, or what the
# configuration says elsewhere.
_UNSAID = ("use_fp16", "model_type")
_EDM_DEFAULTS = {"sigma_min": 0, "sigma_max": math.inf}
_SHAPE = ("img_resolution", "img_channels", "label_dim")
_MODEL_SHAPE = (*_SHAPE, "in_channels", "out_channels")

_NAME = re.compile(r"\w{1,100}", re.ASCII)
_KEY = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
_MOST_PARTS = 50_000  # modules, parameters and buffers; EDM's networks have under 2,000
_DEEPEST = 16  # modules inside one another; EDM's go down to 4
_MOST_ITEMS = 64  # of a list, dict or text of the configuration; EDM's have up to 25
_MOST_NUMBER = 1_000_000  # of an integer there: steps, classes, channels; building counts to it
_EXPECTED = "a network of NVlabs' EDM or EDM2"
_HINT = "give the .pkl of a network as NVIDIA's training code or download page has it"


@dataclass(frozen=True)
class Official:
    """The content of one of NVIDIA's files.

    Arguments:
        config: Plain data for the metadata entry `skiptune.network`: ``precond`` (vp, ve, iddpm,
            edm, edm2), ``img_resolution``, ``img_channels``, ``label_dim``, ``sigma_data`` where
            the preconditioner has one, ``model_type`` unless it is SongUNet, and the arguments
            that the preconditioner and the model were made with.
        tensors: The state by EDM's own names, contiguous, on the CPU, with the file's dtypes
            (EDM2's are float16).
        precond: As in the configuration.
        class_name: Preconditioner and model, e.g. ``EDMPrecond(SongUNet)``.
        sha256: Of the file, 64 hexadecimal digits.
        parameters: Numbers among the tensors that training changes, without buffers.
        source: Where in the file the network was: ``ema``, or ``network`` for a file of nothing
            else.
        licence: Of the weights, as a card says it.
        cautions: What the network cannot be used for, in sentences.
        stage: What makes images of its latents, where the file holds that too.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    precond: str
    class_name: str
    parameters: int
    sha256: str
    source: str
    licence: str = LICENCE_NOTE
    cautions: tuple[str, ...] = ()
    stage: FirstStage | None = None

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Of the tensors, e.g. ``("float32",)``."""
        return tuple(sorted({str(t.dtype).removeprefix("torch.") for t in self.tensors.values()}))


def read_official(path: str | Path) -> Official:
    """Read a network pickle of EDM or EDM2; nothing in it is executed.

    Arguments:
        path: The file. Of a training pickle the averaged weights (`ema`) are taken.

    Raises:
        NetworkError: For a file that cannot be read, is none of these, names anything that such
            a file does not need, or is damaged.
    """
    path = Path(path)
    value = read_records(path)
    network, source = (value, "network") if isinstance(value, Record) else _averaged(path, value)
    if network.class_name not in _PRECONDS:
        raise NetworkError(
            f"{path}: {source}",
            expected=f"one of {', '.join(_PRECONDS)}",
            found=f"a {_shown(network.class_name)}",
            hint=_HINT,
        )
    precond, attribute = _PRECONDS[network.class_name]
    model = network.part("_modules").get(attribute)
    if not isinstance(model, Record) or model.class_name not in _MODELS:
        found = _shown(model.class_name) if isinstance(model, Record) else type(model).__name__
        raise NetworkError(
            f"{path}: {source}.{attribute}",
            expected=f"one of {', '.join(_MODELS)}",
            found=f"a {found}",
            hint=_HINT,
        )
    config = _config(f"{path}: {source}", precond, network, model)
    tensors = Tensors(path.stat().st_size)
    state: dict[str, Tensor] = {}
    parameters = 0
    for name, stands, trained in _state(f"{path}: {source}", network):
        state[name] = tensors.make(stands, f"{path}: {name}")
        parameters += state[name].numel() if trained else 0
    _refuse_more_blocks(f"{path}: {source}", config, len(state))
    return Official(
        config=config,
        tensors=state,
        parameters=parameters,
        precond=precond,
        class_name=f"{network.class_name}({model.class_name})",
        sha256=file_digest(path),
        source=source,
    )


def _averaged(path: Path, value: Any) -> tuple[Record, str]:
    """Return the network of a training pickle, and the key under which it was."""
    ema = value.get("ema") if isinstance(value, dict) else None
    if not isinstance(ema, Record):
        keys = ", ".join(_shown(key) for key in list(value)[:8]) if isinstance(value, dict) else ""
        found = f"a dict of {keys or 'nothing'}" if isinstance(value, dict) else "something else"
        raise NetworkError(
            str(path),
            expected=f"{_EXPECTED}, or a dict that has one under `ema`",
            found=found,
            hint=_HINT,
        )
    return ema, "ema"


def _config(where: str, precond: str, network: Record, model: Record) -> dict[str, Any]:
    outer, inner = _arguments(where, network), _arguments(where, model)
    try:
        config: dict[str, Any] = {"precond": precond}
        sigma_data = (network.state or {}).get("sigma_data", outer.get("sigma_data"))
        if sigma_data is None and precond in ("edm", "edm2"):
            sigma_data = _DEFAULT_SIGMA_DATA
        if sigma_data is not None:
            config["sigma_data"] = float(_plain(sigma_data))
        for key in _SHAPE:
            config[key] = _plain(outer.get(key, 0 if key == "label_dim" else None))
            if type(config[key]) is not int or config[key] < (key != "label_dim"):
                raise ValueError(f"no {key}")
        if model.class_name != _DEFAULT_MODEL:
            config["model_type"] = model.class_name
        for key, value in inner.items():
            if key in config and key not in _MODEL_SHAPE:
                raise ValueError(f"{key} of the model")
            if key not in _MODEL_SHAPE:
                config[key] = _plain(value)
        defaults = _EDM_DEFAULTS if precond == "edm" else {}
        for key, value in outer.items():
            # What the model was told is there already.
            told = key in config or key in inner or key in _UNSAID
            if not told and _plain(value, limits=True) != defaults.get(key, defaults):
                config[key] = _plain(value)
    except ValueError as error:
        raise NetworkError(
            f"{where}: arguments",
            expected="numbers, text, and lists of them, with the shape of the images",
            found=str(error),
            hint=_HINT,
        ) from None
    return config


def _refuse_more_blocks(where: str, config: Mapping[str, Any], tensors: int) -> None:
    """Refuse arguments that ask for more blocks than there are tensors: building them has no end.

    Raises:
        NetworkError: When there are more.
    """
    blocks, levels = config.get("num_blocks", 1), config.get("channel_mult", [1])
    if type(blocks) is not int or not isinstance(levels, list) or blocks * len(levels) > tensors:
        raise NetworkError(
            f"{where}: arguments",
            expected=f"num_blocks and channel_mult of a network of {tensors:,} tensors",
            found=f"{_shown(str(blocks))} and {_shown(str(levels))}",
            hint=_HINT,
        )


def _arguments(where: str, record: Record) -> dict[str, Any]:
    """Return the named arguments that an object was made with."""
    if (record.state or {}).get("_init_args") not in (None, (), []):
        raise NetworkError(
            f"{where}: {_shown(record.class_name)}",
            expected="an object made with named arguments alone, as EDM's training makes them",
            found="arguments without names",
            hint=_HINT,
        )
    arguments = record.part("_init_kwargs")
    for key in arguments:
        if not _KEY.fullmatch(key) or len(arguments) > _MOST_ITEMS:
            raise NetworkError(
                f"{where}: {_shown(record.class_name)}",
                expected=f"at most {_MOST_ITEMS} arguments with names of letters and digits",
                found=f"{len(arguments)} arguments, among them {_shown(key)}",
                hint=_HINT,
            )
    return arguments


def _plain(value: Any, *, limits: bool = False, depth: int = 0) -> Any:
    """Return an argument as JSON has it.

    Arguments:
        value: What the file says.
        limits: Whether infinities are kept, to be compared with a default.
        depth: How many lists it is in.

    Raises:
        ValueError: When JSON has no word for it, or it is longer than any argument of EDM's.
    """
    if isinstance(value, Call):
        value = number(value)
    if value is None or isinstance(value, bool | int):
        if value is not None and abs(value) > _MOST_NUMBER:
            raise ValueError(f"the number {value}")
        return value
    if isinstance(value, float):
        if not limits and not math.isfinite(value):
            raise ValueError(f"the number {value}")
        return value
    if isinstance(value, str):
        if len(value) > _MOST_ITEMS:
            raise ValueError(f"text of {len(value):,} characters")
        return value
    if isinstance(value, list | tuple | Mapping):
        if depth >= 2 or len(value) > _MOST_ITEMS:
            raise ValueError(f"a nested or long {type(value).__name__}")
        if isinstance(value, Mapping):
            return {k: _plain(v, limits=limits, depth=depth + 1) for k, v in value.items()}
        return [_plain(item, limits=limits, depth=depth + 1) for item in value]
    raise ValueError(f"a {type(value).__name__}")


def _state(where: str, network: Record) -> Iterator[tuple[str, Any, bool]]:
    """Yield each parameter and buffer, as torch orders them.

    Returns:
        Its name, what stands for it, and whether it is a parameter.

    Raises:
        NetworkError: For names that no module has, and for modules that are too many or too
            deep, e.g. one that is inside itself.
    """
    parts = 0

    def walk(prefix: str, record: Record, depth: int) -> Iterator[tuple[str, Any, bool]]:
        nonlocal parts
        parameters = record.part("_parameters")
        own = [*parameters.items(), *record.part("_buffers").items()]
        inner = record.part("_modules").items()
        parts += 1 + len(own) + len(inner)
        if parts > _MOST_PARTS or depth > _DEEPEST:
            raise NetworkError(
                where,
                expected=f"at most {_MOST_PARTS:,} modules and tensors, {_DEEPEST} deep",
                found="more: one of them may hold itself",
                hint=_HINT,
            )
        passing = (record.state or {}).get("_non_persistent_buffers_set")
        left_out = passing if isinstance(passing, set) else set()
        for name, _ in (*own, *inner):
            if not _NAME.fullmatch(name):
                raise NetworkError(
                    where,
                    expected="names of modules and tensors, of letters and digits",
                    found=_shown(name),
                    hint=_HINT,
                )
        for name, value in own:
            if value is not None and name not in left_out:
                yield prefix + name, value, name in parameters
        for name, value in inner:
            if isinstance(value, Record):
                yield from walk(f"{prefix}{name}.", value, depth + 1)
            elif value is not None:
                raise NetworkError(
                    f"{where}: {prefix}{name}",
                    expected="a module",
                    found=f"a {type(value).__name__}",
                    hint=_HINT,
                )

    yield from walk("", network, 1)


def _shown(text: str) -> str:
    """Return a name from a file in at most 60 printable characters."""
    return re.sub(r"[^\x21-\x7e]", "?", text[:60])
