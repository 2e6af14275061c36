"""A writer of EDM's and EDM2's pickles that shares nothing with the reader: Python's own pickle.

The names that such files hold belong to modules of NVIDIA's repositories. While a file is written
these stand in `sys.modules` as empty ones, because pickle looks up what it names.
"""

from __future__ import annotations

import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Persistent", "official", "official_bytes", "training_dict", "write_official"]

SOURCE = "import pathlib\npathlib.Path(CANARY).touch()\nraise SystemExit('module_src was run')\n"

# Where NVIDIA's class has another name than ours.
CLASSES = {
    "EDM2Precond": "Precond",
    "EDM2UNet": "UNet",
    "ResidualBlock": "UNetBlock",
    "ResampledConv2d": "Conv2d",
    "Resample2d": "Conv2d",
    "MagnitudeFourier": "MPFourier",
    "MagnitudeConv": "MPConv",
    "MagnitudeBlock": "Block",
}
SHAPE = ("img_resolution", "img_channels", "label_dim")
PRECOND = ("use_fp16", "sigma_data", "model_type", "logvar_channels")


class _EasyDict(dict[str, Any]):
    """What dnnlib calls EasyDict: a dict with attributes."""


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("only the name of this function is written")


def _old_scalar(kind: Any, data: Any) -> Any:
    raise AssertionError("only the name of this function is written")


class OldNumber:
    """A float64 as numpy 1 pickles it."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return _old_scalar, (np.dtype("f8"), np.float64(self.value).tobytes())


class Persistent:
    """An object as NVIDIA's `persistence` pickles it."""

    def __init__(self, class_name: str, state: Mapping[str, Any]) -> None:
        self.class_name, self.state = class_name, dict(state)

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": self.class_name,
            "state": self.state,
        }
        return _reconstruct_persistent_obj, (meta,), None


@contextmanager
def _foreign_modules() -> Iterator[None]:
    """Put NVIDIA's names, and numpy's old one, where pickle looks for them."""
    places: dict[str, dict[str, Any]] = {
        "torch_utils": {},
        "torch_utils.persistence": {"_reconstruct_persistent_obj": _reconstruct_persistent_obj},
        "dnnlib": {},
        "dnnlib.util": {"EasyDict": _EasyDict},
        "numpy.core.multiarray": {"scalar": _old_scalar},
    }
    before = {name: sys.modules.get(name) for name in places}
    for name, content in places.items():
        module = ModuleType(name)
        for key, value in content.items():
            setattr(module, key, value)
            value.__module__, value.__name__, value.__qualname__ = name, key, key
        sys.modules[name] = module
    try:
        yield
    finally:
        for name, module_before in before.items():
            if module_before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module_before


def _attributes(
    parameters: Mapping[str, Tensor | None] | None = None,
    buffers: Mapping[str, Tensor | None] | None = None,
    modules: Mapping[str, Any] | None = None,
    **others: Any,
) -> dict[str, Any]:
    """The `__dict__` of an `nn.Module`."""
    return {
        "training": False,
        "_parameters": OrderedDict(
            (key, None if value is None else nn.Parameter(value.clone(), requires_grad=False))
            for key, value in (parameters or {}).items()
        ),
        "_buffers": OrderedDict(
            (key, None if value is None else value.clone())
            for key, value in (buffers or {}).items()
        ),
        "_non_persistent_buffers_set": set(),
        "_forward_hooks": OrderedDict(),
        "_forward_pre_hooks": OrderedDict(),
        "_modules": OrderedDict(modules or {}),
        "_init_args": (),
        "_init_kwargs": {},
        **others,
    }


def official(network: nn.Module, arguments: Mapping[str, Any]) -> Persistent:
    """The persistent object of a network of ours.

    Arguments:
        network: A preconditioner around a model.
        arguments: What the preconditioner was made with: the shape of the images and the model's.
    """
    outer = type(network).__name__
    channels = arguments["img_channels"]
    model = {key: value for key, value in arguments.items() if key not in (*SHAPE, *PRECOND)}
    ends = {"in_channels": channels, "out_channels": channels * (1 + (outer == "iDDPMPrecond"))}
    ends = {"img_channels": channels} if outer == "EDM2Precond" else ends
    model |= {key: arguments[key] for key in ("img_resolution", "label_dim")} | ends
    made_with = dict.fromkeys(("SongUNet", "DhariwalUNet", "EDM2UNet"), model)
    made_with[outer] = dict(arguments)

    def persistent(module: nn.Module) -> Any:
        modules = {
            name: None if inner is None else persistent(inner)
            for name, inner in module._modules.items()
        }
        if isinstance(module, nn.ModuleDict):
            plain = nn.ModuleDict()
            plain.__dict__["_modules"] = OrderedDict(modules)
            return plain
        own_name = type(module).__name__
        class_name = CLASSES.get(own_name, own_name)
        state = _attributes(
            module._parameters,
            module._buffers,
            modules,
            _init_kwargs=made_with.get(own_name, {"init_weight": np.float64(1e-5)}),
            skip_scale=np.sqrt(0.5),
            _non_persistent_buffers_set=set(module._non_persistent_buffers_set),
        )
        if module is network:
            names = [name for name in ("sigma_data", "sigma_min") if hasattr(module, name)]
            state |= {name: getattr(module, name) for name in names}
        return Persistent(class_name, state)

    made: Persistent = persistent(network)
    return made


def edm2(tensor: Tensor, arguments: Mapping[str, Any]) -> Persistent:
    """A network of EDM2's classes with a weight, a buffer that is not saved, and a scalar."""
    conv = Persistent("MPConv", _attributes({"weight": tensor}))
    inner = nn.ModuleDict()
    inner.__dict__["_modules"] = OrderedDict({"8x8_conv": conv})
    passing = _attributes({"out_gain": torch.zeros([])}, {"cache": torch.ones(2)}, {"enc": inner})
    passing["_non_persistent_buffers_set"] = {"cache"}
    model = {key: value for key, value in arguments.items() if key != "use_fp16"}
    unet = Persistent("UNet", {**passing, "_init_kwargs": model})
    logvar = Persistent("MPFourier", _attributes(buffers={"freqs": torch.arange(4.0)}))
    return Persistent(
        "Precond",
        _attributes(
            modules={"unet": unet, "logvar_fourier": logvar},
            _init_kwargs={**arguments, "logvar_channels": 4},
            sigma_data=0.5,
        ),
    )


def training_dict(network: Persistent, *, easy: bool = False) -> dict[str, Any]:
    """What the training programs save, with a loss and, as EDM2, an encoder that holds arrays."""
    content = {
        "ema": network,
        "loss_fn": Persistent("EDMLoss", {"P_mean": -1.2, "sigma_data": OldNumber(0.5)}),
        "augment_pipe": Persistent("AugmentPipe", {"Hz_geom": torch.ones(3), "p": 0.12}),
        "dataset_kwargs": {"path": "cifar10.zip", "use_labels": True},
    }
    if easy:
        arrays = {"init": [np.arange(4.0), np.ones((2, 2), np.float32)]}
        content["encoder"] = Persistent("StabilityVAEEncoder", arrays)
    return _EasyDict(content) if easy else content


def official_bytes(content: Any, protocol: int = 4) -> bytes:
    """The pickle of a network or of a training program's dict."""
    with _foreign_modules():
        return pickle.dumps(content, protocol=protocol)


def write_official(path: Path, content: Any, protocol: int = 4) -> Path:
    """Write such a pickle, and return its path."""
    path.write_bytes(official_bytes(content, protocol))
    return path
