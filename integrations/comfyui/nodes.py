"""What the nodes do, and the nodes in ComfyUI's first node API.

The pack does not import skiptune, ComfyUI or torch when it is loaded: `folder_paths` is asked when
files are listed, and tensors are multiplied by their own methods.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import math
import os
from pathlib import Path
from typing import Any

from .patch import SkipPatch
from .tuned_file import TunedFile, TunedFileError, read

__all__ = [
    "CATEGORY",
    "NODE_CLASS_MAPPINGS",
    "NODE_DISPLAY_NAME_MAPPINGS",
    "ModelError",
    "SkipTuningApply",
    "SkipTuningReport",
    "apply",
    "check",
    "file_names",
    "fingerprint",
    "load",
    "report",
]

CATEGORY = "model_patches/unet"
FOLDER = "skiptune"
"""The folder of files, below ComfyUI's `models`."""

APPLY = "Skip-Tuning (apply)"
REPORT = "Skip-Tuning (report)"
TOOLTIPS = {
    "file": f"A tuned.json of skiptune in models/{FOLDER}",
    "strength": "1 applies the scales as they were tuned, 0 leaves the model as it is",
    "start_percent": "Where in sampling the scales begin to act, beside the file's own windows",
    "end_percent": "Where in sampling the scales cease to act",
    "setting_by_hand": "For scales that were tuned together with numbers of the sampler: say that"
    " you have set these by hand",
    "latent": "What the sampler made: the report waits for it",
}

_log = logging.getLogger("skiptune.comfyui")


class ModelError(ValueError):
    """A model to which the scales of a file cannot be applied."""

    def __init__(self, expected: str, found: str, hint: str) -> None:
        super().__init__(f"Skip-Tuning: model: expected {expected}, found {found}\nHint: {hint}")


def file_names() -> list[str]:
    """Return the files to choose from, relative to their folder."""
    names = _folders().get_filename_list(FOLDER)
    return [name for name in names if name.lower().endswith(".json")]


def load(name: str) -> TunedFile:
    """Read one of `file_names`.

    Raises:
        TunedFileError: It is not there, or cannot be used.
    """
    path = _folders().get_full_path(FOLDER, name)
    if path is None:
        hint = f"put a tuned.json into ComfyUI's folder models/{FOLDER} and press R"
        raise TunedFileError(name or "the file", [f"no such file in models/{FOLDER}"], hint=hint)
    return read(path)


def check(name: str) -> bool | str:
    """Return True, or what is wrong with a file: ComfyUI shows it before anything runs."""
    try:
        load(name)
    except TunedFileError as error:
        return str(error)
    return True


def fingerprint(name: str) -> str:
    """Return the hash of a file's content, so that a changed file is read again."""
    path = _folders().get_full_path(FOLDER, name)
    return "" if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()


def apply(
    model: Any,
    tuned: TunedFile,
    *,
    strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    setting_by_hand: bool = False,
) -> tuple[Any, str]:
    """Return a clone of a model with its skips scaled, and in words what will be done.

    Arguments:
        model: ComfyUI's MODEL; it stays as it is.
        tuned: The file.
        strength: From 0 to 1; see `SkipPatch`.
        start_percent: From 0 to 1, the part of sampling at which anything begins to be scaled.
        end_percent: From 0 to 1, the part of sampling up to which anything is scaled.
        setting_by_hand: Numbers of the setting that were tuned with the scales have been set.

    Raises:
        ModelError: The model has no such U-Net, or not the tuned one.
        ValueError: A strength outside its range.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"Skip-Tuning: strength: expected 0 to 1, found {strength}")
    _check_addresses(tuned)
    _check_blocks(model, tuned)
    if tuned.setting.knobs and not setting_by_hand:
        wanted = ", ".join(f"{name} {value:g}" for name, value in tuned.setting.knobs.items())
        raise ModelError(
            f"a sampler with the numbers that were tuned together with the scales: {wanted}",
            "none of them set by this node, which cannot do it",
            "set them where you sample, and say so: setting_by_hand",
        )
    high, low = math.inf, 0.0
    if tuned.has_windows or start_percent > 0 or end_percent < 1:
        sampling = model.get_model_object("model_sampling")
        if tuned.has_windows and float(sampling.sigma_max) <= 1:
            raise ModelError(
                "a diffusion model, because the scales have windows in its noise levels sigma",
                "a flow model, whose levels run from 0 to 1",
                f"load {tuned.network}, or tune without windows",
            )
        # ComfyUI's own ends are 999999999.9 at 0 and 0.0 at 1.
        high = sampling.percent_to_sigma(start_percent) if start_percent > 0 else math.inf
        low = sampling.percent_to_sigma(end_percent) if end_percent < 1 else 0.0
    patch = SkipPatch(tuned, strength=strength, sigma_high=high, sigma_low=low)
    clone = model.clone()
    if patch.scales_anything:
        clone.set_model_output_block_patch(patch)
        if hasattr(clone, "add_wrapper_with_key"):  # ComfyUI since December 2024
            clone.add_wrapper_with_key("outer_sample", "skiptune", _logged(patch))
    return clone, _summary(patch)


def report(model: Any) -> str:
    """Return in words what the last sampling with a model did, a line for each file applied."""
    options = model.model_options.get("transformer_options", {})
    patches = options.get("patches", {}).get("output_block_patch", [])
    lines = [patch.report() for patch in patches if isinstance(patch, SkipPatch)]
    return "\n".join(lines) or f"Skip-Tuning: nothing is applied to this model: use {APPLY}"


class SkipTuningApply:
    """Scales a model's skips as a file says: the node in the first node API."""

    CATEGORY = CATEGORY
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL", "STRING")
    RETURN_NAMES = ("model", "summary")
    DESCRIPTION = "Scales the skip connections of a U-Net as skiptune tuned them."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the inputs."""
        unit = {"min": 0.0, "max": 1.0, "step": 0.01}
        return {
            "required": {
                "model": ("MODEL",),
                "file": (file_names(), {"tooltip": TOOLTIPS["file"]}),
                "strength": ("FLOAT", {"default": 1.0, **unit, "tooltip": TOOLTIPS["strength"]}),
            },
            "optional": {
                "start_percent": (
                    "FLOAT",
                    {"default": 0.0, **unit, "tooltip": TOOLTIPS["start_percent"]},
                ),
                "end_percent": (
                    "FLOAT",
                    {"default": 1.0, **unit, "tooltip": TOOLTIPS["end_percent"]},
                ),
                "setting_by_hand": (
                    "BOOLEAN",
                    {"default": False, "tooltip": TOOLTIPS["setting_by_hand"]},
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, file: str) -> bool | str:
        """Check the file before anything runs."""
        return check(file)

    @classmethod
    def IS_CHANGED(cls, file: str, **others: Any) -> str:
        """Return what tells one content of the file from another."""
        return fingerprint(file)

    def apply(self, model: Any, file: str, strength: float, **others: Any) -> tuple[Any, str]:
        """Run the node."""
        return apply(model, load(file), strength=strength, **others)


class SkipTuningReport:
    """Says how many skips the last run scaled: the node in the first node API."""

    CATEGORY = CATEGORY
    FUNCTION = "report"
    OUTPUT_NODE = True
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("report",)
    DESCRIPTION = "Says how many skips the sampling of a latent has scaled."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the inputs."""
        latent = ("LATENT", {"tooltip": TOOLTIPS["latent"]})
        return {"required": {"model": ("MODEL",), "latent": latent}}

    def report(self, model: Any, latent: Any) -> dict[str, Any]:
        """Run the node."""
        text = report(model)
        return {"ui": {"text": (text,)}, "result": (text,)}


NODE_CLASS_MAPPINGS = {
    "SkipTuningApply": SkipTuningApply,
    "SkipTuningReport": SkipTuningReport,
}
NODE_DISPLAY_NAME_MAPPINGS = {"SkipTuningApply": APPLY, "SkipTuningReport": REPORT}


def _logged(patch: SkipPatch) -> Any:
    def around(executor: Any, *args: Any, **kwargs: Any) -> Any:
        made = patch.around_sampling(executor, *args, **kwargs)
        _log.log(logging.WARNING if patch.did_nothing else logging.INFO, patch.report())
        return made

    return around


def _summary(patch: SkipPatch) -> str:
    tuned, setting = patch.tuned, patch.tuned.setting
    scaled = sum(bool(row.windows) for row in patch.rows)
    acts = {"both": "", "cond": ", with the prompt alone", "uncond": ", without the prompt alone"}
    windows = ", in windows of noise" if tuned.has_windows else ""
    guidance = "" if setting.guidance == 1 else f", cfg {setting.guidance:g}"
    return (
        f"Skip-Tuning ({tuned.study}): scales {scaled} of {len(patch.rows)} skips"
        f"{windows}{acts[tuned.branches]}, strength {patch.strength:g}; tuned on {tuned.network} "
        f"with {setting.solver}, {setting.steps} steps{guidance}: {tuned.verdict}"
    )


def _check_addresses(tuned: TunedFile) -> None:
    """Refuse files of networks whose skips are not those of ComfyUI's `output_blocks` in order."""
    addresses = [row.address for row in tuned.rows]
    if addresses == [f"output_blocks.{place}" for place in range(len(addresses))]:
        return
    # diffusers numbers the same blocks by resolution and place, both from the deepest on.
    places = [address.split(".") for address in addresses]
    if all(len(p) == 4 and (p[0], p[2]) == ("up_blocks", "resnets") for p in places):
        numbers = [(p[1], p[3]) for p in places]
        each = sum(first == "0" for first, _ in numbers)
        if each and numbers == [
            (str(place // each), str(place % each)) for place in range(len(numbers))
        ]:
            return
    raise ModelError(
        "a file of a network whose skips are called output_blocks.N or up_blocks.I.resnets.J",
        f"{addresses[0]}: {tuned.network} is of another kind",
        "ComfyUI samples Stable Diffusion 1.x, 2.x and XL: tune one of these",
    )


def _check_blocks(model: Any, tuned: TunedFile) -> None:
    network = getattr(getattr(model, "model", None), "diffusion_model", None)
    blocks = getattr(network, "output_blocks", None)
    hint = f"load {tuned.network}, or a model of its architecture"
    if blocks is None:
        raise ModelError(
            "a U-Net with output_blocks (Stable Diffusion 1.x, 2.x, XL)",
            f"{type(network).__name__}, which has none: transformers such as Flux or SD3 have no"
            " skip connections to scale",
            hint,
        )
    if len(blocks) != len(tuned.rows):
        raise ModelError(
            f"{len(tuned.rows)} skips as in {tuned.network}", f"{len(blocks)} output blocks", hint
        )
    for place, (block, row) in enumerate(zip(blocks, tuned.rows, strict=True)):
        channels = getattr(next(iter(block), None), "channels", None)
        expected = row.main_channels + row.skip_channels
        # Of a block that does not say it, the patch sees the channels when it is first called.
        if isinstance(channels, int) and channels != expected:
            raise ModelError(
                f"{row.main_channels} + {row.skip_channels} channels in output block {place}"
                f" ({row.address}) as in {tuned.network}",
                f"{channels}",
                hint,
            )


def _folders() -> Any:
    """Return ComfyUI's `folder_paths`, with the folder of files known to it."""
    folders: Any = importlib.import_module("folder_paths")
    folders.add_model_folder_path(FOLDER, os.path.join(folders.models_dir, FOLDER))
    return folders
