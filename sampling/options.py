"""From the options of others' training code to the configuration of a network of skiptune.

The words are those of openai/guided-diffusion (`script_util.py`), openai/consistency_models (the
same), CompVis/latent-diffusion (its configuration files), baofff/U-ViT (`configs/`) and of
lucidrains' denoising-diffusion-pytorch (`Unet`, `GaussianDiffusion`), whose facts and defaults are
taken over; what says nothing about a network's images is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from skiptune.errors import NetworkError
from skiptune.sampling.first_stage import vq_config

__all__ = ["FAMILIES", "Described", "config_of"]

_CLASSES = 1000  # of ImageNet, which upstream's code takes for granted
# How a network was run and trained, and how it is sampled: it is the same network.
_RUNNING = (
    "use_checkpoint",
    "use_fp16",
    "timestep_respacing",
    "use_kl",
    "rescale_learned_sigmas",
    "weight_schedule",
)
_MULTIPLES = {
    512: [0.5, 1, 1, 2, 2, 4, 4],
    256: [1, 1, 2, 2, 4, 4],
    128: [1, 1, 2, 3, 4],
    64: [1, 2, 3, 4],
}
_BLOCKS = (
    "num_res_blocks",
    "num_heads",
    "num_head_channels",
    "num_heads_upsample",
    "use_scale_shift_norm",
    "resblock_updown",
)
_HINT = "docs/networks.md shows the options of every family"


@dataclass(frozen=True)
class Described:
    """What options say.

    Arguments:
        kind: Of the file: one of `FAMILIES`, ldm, or own.
        config: For `networks.build_denoiser`.
        cautions: What the network cannot be used for yet, in sentences.
        stage: Of what makes images of its latents, where its file holds that: the configuration
            of diffusers' `VQModel`, whose ``scaling_factor`` is None where the file says it.
    """

    kind: str
    config: dict[str, Any]
    cautions: tuple[str, ...] = field(default=())
    stage: dict[str, Any] | None = None


def config_of(options: Mapping[str, Any], *, where: str) -> Described:
    """Return what options describe.

    Arguments:
        options: The mapping; see `published`.
        where: Names it, for messages.

    Raises:
        NetworkError: For options of no known family, missing or unknown ones, or values that
            describe nothing.
    """
    try:
        if "precond" in options:
            return Described("own", dict(options))
        if isinstance(options.get("model"), Mapping):
            return _latent_diffusion(options["model"])
        family = options.get("family")
        if family not in FAMILIES:
            raise ValueError(
                f"family {family!r}, none of {', '.join(FAMILIES)}, and neither `model` of latent"
                " diffusion nor `precond`"
            )
        taken = _Taken({key: value for key, value in options.items() if key != "family"})
        made = FAMILIES[family](taken)
        taken.stop()
        return made
    except (ValueError, TypeError, KeyError, ArithmeticError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise NetworkError(
            where,
            expected="the options of a network, in the words of the code that trained it",
            found=found,
            hint=_HINT,
        ) from None


class _Taken:
    """Options, of which those that nobody takes are refused."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._left = dict(options)

    def __call__(self, name: str, default: Any = ...) -> Any:
        if default is ... and name not in self._left:
            raise KeyError(name)
        value = self._left.pop(name, default)
        # Whoever copies flags of a command line writes them so.
        return {"True": True, "False": False}.get(value, value) if type(value) is str else value

    def some(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: self(name) for name in names if name in self._left}

    def stop(self) -> None:
        for name in _RUNNING:
            self._left.pop(name, None)
        if self._left:
            raise ValueError(f"unknown: {', '.join(map(str, self._left))}")


def _flags(taken: _Taken) -> dict[str, Any]:
    """Return what the scripts of guided-diffusion and of consistency models have in common."""
    size = int(taken("image_size", 64))
    multiples = _numbers(taken("channel_mult", "")) or _MULTIPLES.get(size)
    if multiples is None:
        raise ValueError(f"no channel_mult, which image_size {size} does not give")
    classes = int(taken("num_classes", _CLASSES))
    return {
        "model_type": "OpenAIUNet",
        "img_resolution": size,
        "img_channels": int(taken("in_channels", 3)),
        "label_dim": classes if taken("class_cond", False) else 0,
        "model_channels": int(taken("num_channels", 128)),
        "channel_mult": multiples,
        "attention_resolutions": [
            size // int(number) for number in _numbers(taken("attention_resolutions", "16,8"))
        ],
        "dropout": float(taken("dropout", 0.0)),
        # The scripts' defaults, which are not the network's.
        "num_res_blocks": 2,
        "num_heads": 4,
        "use_scale_shift_norm": True,
        **taken.some(_BLOCKS),
    }


def _guided_diffusion(taken: _Taken) -> Described:
    config = {"precond": "discrete", **_flags(taken)}
    steps = int(taken("diffusion_steps", 1000))
    config["betas"] = str(taken("noise_schedule", "linear"))
    config["timesteps"] = steps
    if config["betas"] == "linear":
        # Ho et al.'s, kept the same in the limit of many steps.
        config |= {"beta_start": 0.1 / steps, "beta_end": 20 / steps}
    if taken("rescale_timesteps", False):
        config["told"] = 1000 / steps
    config["prediction"] = "sample" if taken("predict_xstart", False) else "epsilon"
    config["learn_sigma"] = bool(taken("learn_sigma", False))
    config["use_new_attention_order"] = bool(taken("use_new_attention_order", False))
    return Described("guided-diffusion", config)


def _consistency(taken: _Taken) -> Described:
    config = {"precond": "consistency", "sigma_data": 0.5, **_flags(taken)}
    config |= {
        name: float(value) for name, value in taken.some(("sigma_min", "sigma_max")).items()
    }
    mode = taken("training_mode")
    modes = ("edm", "consistency_distillation", "consistency_training")
    if mode not in modes:
        raise ValueError(f"training_mode {mode!r}, none of {', '.join(modes)}")
    if taken("learn_sigma", False):
        raise ValueError("learn_sigma, which consistency models do not have")
    taken("use_new_attention_order", False)  # their attention has one order, whatever this says
    config |= {
        "distilled": mode != "edm",
        "use_new_attention_order": True,
        "attention_dims": 2,
    }
    return Described("consistency", config)


def _latent_diffusion(model: Mapping[str, Any]) -> Described:
    params = model["params"]
    unet = _Taken(params["unet_config"]["params"])
    kinds = {"linear": "scaled_linear", "sqrt_linear": "linear", "cosine": "cosine"}
    schedule = params.get("beta_schedule", "linear")
    if schedule not in kinds:
        raise ValueError(f"beta_schedule {schedule!r}, none of {', '.join(kinds)}")
    predictions = {"eps": "epsilon", "x0": "sample", "v": "v"}
    config = {
        "precond": "discrete",
        "betas": kinds[schedule],
        "beta_start": float(params.get("linear_start", 1e-4)),
        "beta_end": float(params.get("linear_end", 2e-2)),
        "timesteps": int(params.get("timesteps", 1000)),
        "prediction": predictions[params.get("parameterization", "eps")],
        "model_type": "OpenAIUNet",
        "img_resolution": int(unet("image_size")),
        "img_channels": int(unet("in_channels")),
        **_latent_classes(params.get("cond_stage_config")),
    }
    if unet("out_channels") != config["img_channels"]:
        raise ValueError("out_channels other than in_channels: the network sees more than noise")
    config |= {
        "model_channels": int(unet("model_channels")),
        "attention_resolutions": list(unet("attention_resolutions")),
        "channel_mult": list(unet("channel_mult", [1, 2, 4, 8])),
        **unet.some(
            (
                *_BLOCKS,
                "dropout",
                "conv_resample",
                "use_spatial_transformer",
                "transformer_depth",
                "context_dim",
            )
        ),
    }
    if "first_stage_config" in params:
        config["latents"] = True  # three channels may be a latent's too
    unet("legacy", True)
    unet.stop()
    stage, cautions = _first_stage(params, int(config["img_channels"]))
    return Described("ldm", config, cautions, stage)


def _first_stage(
    params: Mapping[str, Any], channels: int
) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Return the first stage with a codebook that the file holds, or why there is none."""
    stage = _mapping(params.get("first_stage_config", {}), "first_stage_config")
    kind = str(stage.get("target", "")).rsplit(".", 1)[-1]
    if "first_stage_config" not in params or kind.startswith("AutoencoderKL"):
        return None, ()
    scale = None if params.get("scale_by_std", False) else float(params.get("scale_factor", 1.0))
    try:
        # Of their classes this one alone takes the nearest code first, as diffusers' does.
        if kind != "VQModelInterface":
            raise ValueError("no VQModelInterface")
        given = _mapping(stage.get("params", {}), "first_stage_config.params")
        made = vq_config(given, scale=scale)
        if made["vq_embed_dim"] != channels:
            raise ValueError(f"embed_dim {made['vq_embed_dim']} of {channels} channels")
        return made, ()
    except (ValueError, TypeError, KeyError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
    return None, (
        f"The network makes latents of a {kind or 'first stage'}, which is not converted"
        f" ({reason}): name its VQModel in diffusers' layout as `network.decoder`, with"
        f" the scaling_factor {'of its file' if scale is None else scale} in its config.json.",
    )


def _latent_classes(stage: Any) -> dict[str, Any]:
    """Return the classes of a condition of latent diffusion."""
    if stage in (None, "__is_unconditional__", "__is_first_stage__"):
        return {"label_dim": 0}
    kind = str(_mapping(stage, "cond_stage_config").get("target", "")).rsplit(".", 1)[-1]
    if kind != "ClassEmbedder":
        raise ValueError(
            f"a condition by {kind or 'something else'}: of this code's networks those without"
            " conditions and with classes are read, text in diffusers' layout"
        )
    given = _mapping(stage["params"], "cond_stage_config.params")
    rows = int(given.get("n_classes", _CLASSES))
    # One more than ImageNet's classes: the last row stands for no label.
    labelled = rows - 1 if rows == _CLASSES + 1 or given.get("null_label") else rows
    return {"label_dim": labelled, "label_rows": rows}


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}, a {type(value).__name__} and no mapping")
    return value


def _uvit(taken: _Taken) -> Described:
    taken("name", "uvit")
    process = taken("process")
    if taken("skip", True) is not True:
        raise ValueError("skip false: a network without skips")
    for name in ("qk_scale", "num_clip_token", "clip_dim"):
        if taken(name, None) is not None:
            raise ValueError(f"{name}, which only other networks of its authors have")
    rows = int(taken("num_classes", -1))
    null = bool(taken("null_label", rows == _CLASSES + 1))
    config: dict[str, Any] = {
        "precond": "vp",
        "model_type": "UViT",
        "img_resolution": int(taken("img_size")),
        "img_channels": int(taken("in_chans", 3)),
        "label_dim": max(rows, 0) - null,
        "label_rows": max(rows, 0),
        **taken.some(
            (
                "patch_size",
                "embed_dim",
                "depth",
                "num_heads",
                "mlp_ratio",
                "qkv_bias",
                "mlp_time_embed",
                "conv",
            )
        ),
    }
    if process == "discrete":
        # Stable Diffusion's variances; the first step is called 1.
        config |= {
            "precond": "discrete",
            "betas": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "first": 1,
        }
    elif process != "vpsde":
        raise ValueError(f"process {process!r}, neither vpsde nor discrete")
    return Described("u-vit", config)


def _lucidrains(taken: _Taken) -> Described:
    steps = int(taken("timesteps", 1000))
    predictions = {"pred_noise": "epsilon", "pred_v": "v", "pred_x0": "sample"}
    if taken("self_condition", False):
        raise ValueError("self_condition, which needs an estimate of the step before")
    for name in ("sampling_timesteps", "ddim_sampling_eta", "min_snr_loss_weight"):
        taken(name, None)
    config: dict[str, Any] = {
        "precond": "discrete",
        "betas": str(taken("beta_schedule", "sigmoid")),
        "timesteps": steps,
        "prediction": predictions[taken("objective", "pred_v")],
        "learn_sigma": bool(taken("learned_variance", False)),
        "model_type": "LucidrainsUnet",
        "img_resolution": int(taken("image_size")),
        "img_channels": int(taken("channels", 3)),
        "label_dim": 0,
        **taken.some(
            (
                "dim",
                "init_dim",
                "dim_mults",
                "learned_sinusoidal_cond",
                "random_fourier_features",
                "learned_sinusoidal_dim",
                "sinusoidal_pos_emb_theta",
                "dropout",
                "attn_dim_head",
                "attn_heads",
                "full_attn",
                "flash_attn",
            )
        ),
    }
    if config["betas"] == "linear":
        config |= {"beta_start": 0.1 / steps, "beta_end": 20 / steps}
    if taken("auto_normalize", True) is not True:
        raise ValueError("auto_normalize false: images of another range than -1..1")
    return Described("lucidrains", config)


def _numbers(value: Any) -> list[Any]:
    if isinstance(value, str):
        numbers = [float(part) for part in value.split(",") if part.strip()]
        return [int(number) if number.is_integer() else number for number in numbers]
    return list(value) if isinstance(value, list | tuple) else [value]


FAMILIES: dict[str, Callable[[_Taken], Described]] = {
    "guided-diffusion": _guided_diffusion,
    "consistency": _consistency,
    "u-vit": _uvit,
    "lucidrains": _lucidrains,
}
