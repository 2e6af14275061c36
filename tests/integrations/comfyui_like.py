"""A stand-in for ComfyUI, written from its interface: what a node pack sees, and nothing else.

ComfyUI is GPL-3, so none of its code stands here; what it does was read at Comfy-Org/ComfyUI
0.3.64, commit a125cd84b054a57729b5eecab930ca9408719832:

- comfy/ldm/modules/diffusionmodules/openaimodel.py (`UNetModel._forward`): sets
  transformer_options["block"] to ("output", i), pops the skip, lets every patch of
  transformer_options["patches"]["output_block_patch"] map (h, hsp, transformer_options) to
  (h, hsp) in the order of their installation, and concatenates h and hsp on dimension 1.
- comfy/model_patcher.py (`ModelPatcher`): `clone` deep-copies `model_options` and copies the lists
  of wrappers; `set_model_output_block_patch` appends; `add_wrapper_with_key`; `get_model_object`.
- comfy/samplers.py (`_calc_cond_batch`, `CFGGuider`): what a batch's chunks are (`cond_or_uncond`,
  the conditions in reversed order where they fit into one batch), `sigmas` [images of a prompt],
  sampling inside the wrappers of `outer_sample`, called with (executor, noise, latent_image,
  sampler, sigmas, denoise_mask, callback, disable_pbar, seed).
- comfy/model_sampling.py (`ModelSamplingDiscrete`): `percent_to_sigma`, sigma_max, and
  sigma = sqrt((1 - abar) / abar).
- comfy/patcher_extension.py (`WrapperExecutor`): an executor is called to go on, and has
  `class_obj`.
- nodes.py (`load_custom_node`), folder_paths.py, comfy_api/latest/_io.py: loading of packs, the
  folders of files, and the second node API.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

_LOADED = count()
PACK = Path(__file__).resolve().parents[2] / "integrations" / "comfyui"


class Levels:
    """The noise levels of a network of discrete steps, rising."""

    def __init__(self, sigmas: Sequence[float]) -> None:
        self.sigmas = torch.tensor(sigmas, dtype=torch.float32)
        self.sigma_max = self.sigmas[-1]

    def percent_to_sigma(self, percent: float) -> float:
        """Return the noise level at a part of all timesteps."""
        if percent <= 0:
            return 999999999.9
        if percent >= 1:
            return 0.0
        place = (1 - percent) * (len(self.sigmas) - 1)
        low, share = int(place), place - int(place)
        logs = self.sigmas.log()
        return float((logs[low] * (1 - share) + logs[min(low + 1, len(logs) - 1)] * share).exp())


class Model:
    """What a patcher patches: a U-Net, which here is one of skiptune's OpenAI-style ones.

    Arguments:
        denoiser: skiptune's denoiser around it, whose coefficients a model applies.
        dtype: In which the U-Net computes.
    """

    def __init__(self, denoiser: Any, dtype: torch.dtype = torch.float32) -> None:
        self.denoiser = denoiser
        self.diffusion_model = denoiser.model
        self.dtype = dtype
        self.model_sampling = Levels([float(one) for one in getattr(denoiser, "u", [0.002, 80.0])])

    def apply_model(self, x: Tensor, sigma: Tensor, labels: Tensor, options: Any) -> Tensor:
        """Estimate clean images [N, C, H, W] at noise levels [N]."""
        skip, out, scale, told = self.denoiser.coefficients(sigma.reshape(-1, 1, 1, 1))
        made = self._network((scale * x).to(self.dtype), told.flatten(), labels, options).float()
        return skip * x + out * made[:, : x.shape[1]]  # type: ignore[no-any-return]

    def _network(self, x: Tensor, times: Tensor, labels: Tensor, options: Any) -> Tensor:
        unet = self.diffusion_model
        conditions = unet._condition(times, labels)
        h, skips = unet._encode(x, conditions)
        for place, block in enumerate(unet.output_blocks):
            options["block"] = ("output", place)
            hsp = skips.pop()
            for patch in options.get("patches", {}).get("output_block_patch", []):
                h, hsp = patch(h, hsp, options)
            h = block(torch.cat([h, hsp], dim=1), *conditions)
        made: Tensor = unet.out(h)
        return made


class Patcher:
    """A model with options, which nodes clone and change: what is called MODEL in a graph."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.wrappers: dict[str, dict[str, list[Any]]] = {}

    def clone(self) -> Patcher:
        """Return another one of the same model."""
        other = type(self)(self.model)
        other.model_options = copy.deepcopy(self.model_options)
        other.wrappers = {
            kind: {key: list(each) for key, each in keys.items()}
            for kind, keys in self.wrappers.items()
        }
        return other

    def set_model_output_block_patch(self, patch: Any) -> None:
        """Add a patch behind those that are there."""
        patches = self.model_options["transformer_options"].setdefault("patches", {})
        patches["output_block_patch"] = [*patches.get("output_block_patch", []), patch]

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        """Add a wrapper."""
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def get_model_object(self, name: str) -> Any:
        """Return an attribute of the model."""
        return getattr(self.model, name)


class Guider:
    """Classifier-free guidance: evaluates a model with and without a prompt, and mixes.

    Arguments:
        patcher: The model.
        positive: One-hot rows [B, classes]; the negative prompt is no class.
        cfg: The scale of guidance; at 1 there is no second evaluation.
        together: Whether both prompts go through the network in one batch.
    """

    def __init__(
        self, patcher: Any, positive: Tensor, *, cfg: float = 1.0, together: bool = True
    ) -> None:
        self.patcher, self.cfg, self.together = patcher, cfg, together
        self.conds = [positive, torch.zeros_like(positive)][: 1 if cfg == 1 else 2]
        self.original_conds: dict[str, Any] = {"positive": [], "negative": []}
        self.seen: list[dict[str, Any]] = []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Estimate clean images [B, C, H, W] at noise levels [B]."""
        out: dict[int, Tensor] = {}
        places = list(range(len(self.conds)))[::-1]
        for batch in [places] if self.together else [[place] for place in places]:
            options = dict(self.patcher.model_options["transformer_options"])
            options |= {"cond_or_uncond": list(batch), "sigmas": sigma}
            rows = torch.cat([self.conds[place] for place in batch])
            many = len(batch)
            made = self.patcher.model.apply_model(
                torch.cat([x] * many), torch.cat([sigma] * many), rows, options
            )
            out |= dict(zip(batch, made.chunk(many), strict=True))
            self.seen.append(options)
        if len(out) == 1:
            return out[0]
        return out[1] + (out[0] - out[1]) * self.cfg

    def sample(self, noise: Tensor, sigmas: Tensor) -> Tensor:
        """Solve from the first noise level to the last by Euler's steps."""
        wrappers = [
            wrapper
            for each in self.patcher.wrappers.get("outer_sample", {}).values()
            for wrapper in each
        ]

        def inner(noise: Tensor, latent: Any, sampler: Any, sigmas: Tensor, *rest: Any) -> Tensor:
            return sampler.sampler_function(self, noise, sigmas)  # type: ignore[no-any-return]

        sampler = SimpleNamespace(sampler_function=sample_euler)
        return _Executor(inner, self, wrappers)(
            noise, torch.zeros_like(noise), sampler, sigmas, None, None, False, 0
        )


class _Executor:
    def __init__(self, original: Callable[..., Tensor], class_obj: Any, left: list[Any]) -> None:
        self.original, self.class_obj, self.left = original, class_obj, left

    def __call__(self, *args: Any) -> Tensor:
        if not self.left:
            return self.original(*args)
        first, *left = self.left
        made: Tensor = first(_Executor(self.original, self.class_obj, left), *args)
        return made


def sample_euler(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
    """Solve by Euler's steps (Karras et al. 2022, arXiv 2206.00364, algorithm 1)."""
    for now, after in pairwise(sigmas):
        slope = (x - denoise(x, now.expand(len(x)))) / now
        x = x + (after - now) * slope
    return x


def freeu_like(b: float, s: float) -> Callable[[Tensor, Tensor, Any], tuple[Tensor, Tensor]]:
    """Another node's patch: it scales the main path's first half and the skip, in place."""

    def patch(h: Tensor, hsp: Tensor, options: Any) -> tuple[Tensor, Tensor]:
        h[:, : h.shape[1] // 2] = h[:, : h.shape[1] // 2] * b
        return h, hsp * s

    return patch


@contextmanager
def comfyui(models: Path, *, second_api: bool = True) -> Iterator[None]:
    """Put ComfyUI's modules in the place of what would be imported.

    Arguments:
        models: The folder of models.
        second_api: Whether this ComfyUI knows the second node API.
    """
    paths: dict[str, list[str]] = {}
    folders: Any = ModuleType("folder_paths")
    folders.models_dir = str(models)

    def add(name: str, path: str, is_default: bool = False) -> None:
        if path not in paths.setdefault(name, []):
            paths[name].append(path)

    def names(name: str) -> list[str]:
        return sorted(
            os.path.relpath(os.path.join(folder, file), root)
            for root in paths[name]
            for folder, _, files in os.walk(root)
            for file in files
        )

    def full(name: str, file: str) -> str | None:
        inside = os.path.relpath(os.path.join("/", file), "/")
        found = [os.path.join(root, inside) for root in paths[name]]
        return next((path for path in found if os.path.isfile(path)), None)

    folders.add_model_folder_path, folders.get_filename_list = add, names
    folders.get_full_path = full
    modules: dict[str, Any] = {"folder_paths": folders}
    if second_api:
        api, latest = ModuleType("comfy_api"), ModuleType("comfy_api.latest")
        vars(latest).update(ComfyExtension=type("ComfyExtension", (), {}), io=_io())
        vars(api)["latest"] = latest
        modules |= {"comfy_api": api, "comfy_api.latest": latest}
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _io() -> Any:
    """Return what the pack uses of the second node API; all of it keeps what it is given."""

    def kind(io_type: str) -> Any:
        def put(id: str, **options: Any) -> Any:
            return SimpleNamespace(id=id, io_type=io_type, options=options)

        return SimpleNamespace(Input=put, Output=put)

    class Schema(SimpleNamespace):
        """Ids are unique among inputs and outputs together."""

        def __init__(self, **values: Any) -> None:
            super().__init__(**values)
            ids = [one.id for one in (*self.inputs, *self.outputs)]
            assert len(set(ids)) == len(ids)

    def output(*args: Any, ui: Any = None) -> Any:
        return SimpleNamespace(args=args, ui=ui)

    kinds = {
        "Model": "MODEL",
        "Combo": "COMBO",
        "Float": "FLOAT",
        "Boolean": "BOOLEAN",
        "String": "STRING",
        "Latent": "LATENT",
    }
    made = {name: kind(io_type) for name, io_type in kinds.items()}
    comfy_node = type("ComfyNode", (), {})
    return SimpleNamespace(**made, ComfyNode=comfy_node, NodeOutput=output, Schema=Schema)


def load_pack(folder: Path = PACK) -> tuple[ModuleType, dict[str, Any]]:
    """Load a node pack by its folder, as ComfyUI does; return the module and its nodes by name.

    The first API's mappings are taken where there are any; else the extension is asked.
    """
    name = f"custom_nodes_{next(_LOADED)}"  # no parts of a pack that was loaded before
    spec: Any = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    if hasattr(module, "NODE_CLASS_MAPPINGS"):
        return module, dict(module.NODE_CLASS_MAPPINGS)
    made = module.comfy_entrypoint()
    extension = _finished(made) if inspect.iscoroutine(made) else made
    listed = _finished(extension.get_node_list())
    return module, {node.define_schema().node_id: node for node in listed}


def _finished(coroutine: Any) -> Any:
    """Return what a coroutine that waits for nothing returns."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the coroutine waits")


class Transformer(nn.Module):
    """A network without skips, such as Flux."""
