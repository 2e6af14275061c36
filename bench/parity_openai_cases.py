"""The networks that `parity_openai` compares: their authors' own code, and the options of each.

Nothing of it is part of skiptune; a checkout lies on `sys.path`. What training alone needs is
replaced by nothing, and flash_attn, which needs a GPU and half precision, by what it computes.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiptune.sampling.networks import build_denoiser

__all__ = ["CASES", "CLASSES", "SIGMAS", "STEPS", "Case", "Denoise", "Options", "upstream"]

CLASSES = 10
STEPS = (3, 250, 640, 990)  # of 1000
SIGMAS = (0.03, 0.7, 5.0, 60.0)

Options = dict[str, Any]
Denoise = Callable[[Tensor, int, Tensor | None], Tensor]
"""(x, place of the noise level, class numbers or None) -> their estimate of the clean images."""


@dataclass(frozen=True)
class Case:
    """One network.

    Arguments:
        checkout: What is found in the repository that has it.
        make: Makes their network, and their denoiser of it, of the options and the noise levels
            of ours.
        options: What `published` is told.
        receivers: The list of their decoder's blocks; none where the addresses of the skips are
            names in it.
    """

    checkout: str
    make: Callable[[Options, list[float]], tuple[nn.Module, Denoise]]
    options: Options
    receivers: str = "output_blocks"

    @property
    def labelled(self) -> bool:
        """Whether theirs can be given no label beside a label."""
        return self.checkout in ("ldm", "libs/uvit.py")


def upstream(name: str) -> Any:
    """Import a module of a checkout, none of whose packages is a dependency."""
    return importlib.import_module(name)


def _guided(options: Options, levels: list[float]) -> tuple[nn.Module, Denoise]:
    script = upstream("guided_diffusion.script_util")
    script.NUM_CLASSES = CLASSES
    given = {**script.model_and_diffusion_defaults(), **options}
    given = {key: value for key, value in given.items() if key not in ("family", "num_classes")}
    network, diffusion = script.create_model_and_diffusion(**given)

    def denoise(x: Tensor, place: int, labels: Tensor | None) -> Tensor:
        noisy = x / (1 + levels[place] ** 2) ** 0.5
        step = torch.full((len(x),), STEPS[place])
        found = diffusion.p_mean_variance(
            network,
            noisy,
            step,
            clip_denoised=False,
            model_kwargs={} if labels is None else {"y": labels},
        )
        return found["pred_xstart"]  # type: ignore[no-any-return]

    return network, denoise


class _Attention(nn.Module):
    """What flash_attn computes, which needs a GPU and half precision."""

    def __init__(self, **unused: Any) -> None:
        super().__init__()

    def forward(self, qkv: Tensor, **unused: Any) -> tuple[Tensor, None]:
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2), None


def _consistency(options: Options, levels: list[float]) -> tuple[nn.Module, Denoise]:
    flash, inside = types.ModuleType("flash_attn"), types.ModuleType("flash_attn.flash_attention")
    vars(inside)["FlashAttention"] = _Attention
    # A loss and processes of training, which nothing here runs.
    piq, processes = types.ModuleType("piq"), types.ModuleType("cm.dist_util")
    vars(piq)["LPIPS"] = object
    sys.modules.update({m.__name__: m for m in (flash, inside, piq, processes)})
    vars(upstream("cm"))["dist_util"] = processes
    script = upstream("cm.script_util")
    denoisers = upstream("cm.karras_diffusion")
    script.NUM_CLASSES = CLASSES
    ours = ("family", "num_classes", "training_mode")
    defaults = script.model_and_diffusion_defaults()
    given = {**defaults, **{k: v for k, v in options.items() if k not in ours}}
    not_model = ("sigma_min", "sigma_max", "weight_schedule")
    network = script.create_model(**{k: v for k, v in given.items() if k not in not_model})
    diffusion = denoisers.KarrasDenoiser(
        distillation=options["training_mode"] != "edm", loss_norm="l2"
    )

    def denoise(x: Tensor, place: int, labels: Tensor | None) -> Tensor:
        sigmas = torch.full((len(x),), SIGMAS[place])
        given = {} if labels is None else {"y": labels}
        return diffusion.denoise(network, x, sigmas, **given)[1]  # type: ignore[no-any-return]

    return network, denoise


def _latent(options: Options, levels: list[float]) -> tuple[nn.Module, Denoise]:
    lists = types.ModuleType("omegaconf.listconfig")
    vars(lists)["ListConfig"] = tuple  # what their files are read into; here they are lists
    sys.modules.update({"omegaconf": types.ModuleType("omegaconf"), lists.__name__: lists})
    module = upstream("ldm.modules.diffusionmodules.openaimodel")
    util = upstream("ldm.modules.diffusionmodules.util")
    params = options["model"]["params"]
    holder = nn.Module()
    holder.model = nn.Module()
    holder.model.diffusion_model = unet = module.UNetModel(**params["unet_config"]["params"])
    classes = "cond_stage_config" in params
    if classes:
        rows, width = CLASSES + 1, params["unet_config"]["params"]["context_dim"]
        holder.cond_stage_model = nn.Module()
        holder.cond_stage_model.embedding = embedding = nn.Embedding(rows, width)
    betas = util.make_beta_schedule(
        "linear", 1000, linear_start=params["linear_start"], linear_end=params["linear_end"]
    )
    left = torch.tensor(betas).double().neg().add(1).cumprod(0)

    def denoise(x: Tensor, place: int, labels: Tensor | None) -> Tensor:
        kept = left[STEPS[place]].float()
        step = torch.full((len(x),), STEPS[place])
        context = None
        if classes:
            rows = torch.full((len(x),), CLASSES) if labels is None else labels
            context = embedding(rows)[:, None]
        noisy = x * kept.sqrt()
        noise = unet(noisy, step, context=context)
        return noisy / kept.sqrt() - (1 / kept - 1).sqrt() * noise  # type: ignore[no-any-return]

    return holder, denoise


def _uvit(options: Options, levels: list[float]) -> tuple[nn.Module, Denoise]:
    module = upstream("libs.uvit")
    without = ("family", "process", "null_label")
    network = module.UViT(**{k: v for k, v in options.items() if k not in without})

    def denoise(x: Tensor, place: int, labels: Tensor | None) -> Tensor:
        sigma = levels[place]
        # Its first step is called 1; numbers in between are of its continuous process.
        step = torch.full((len(x),), float(STEPS[place] + 1))
        if options["process"] == "vpsde":
            step = torch.full((len(x),), 999 * _time(sigma))
        rows = None
        if "num_classes" in options:
            rows = torch.full((len(x),), CLASSES) if labels is None else labels
        noise = network(x / (1 + sigma**2) ** 0.5, step, rows)
        return x - sigma * noise  # type: ignore[no-any-return]

    return network, denoise


def _lucidrains(options: Options, levels: list[float]) -> tuple[nn.Module, Denoise]:
    # What training alone needs, and a package of which only one file is run.
    for name, attribute in (
        ("ema_pytorch", "EMA"),
        ("accelerate", "Accelerator"),
        ("scipy.optimize", "linear_sum_assignment"),
    ):
        stub = types.ModuleType(name)
        vars(stub)[attribute] = object
        sys.modules.update({name.split(".")[0]: stub, name: stub})
    package = types.ModuleType("denoising_diffusion_pytorch")
    vars(package)["__path__"] = [f"{sys.path[0]}/denoising_diffusion_pytorch"]
    sys.modules[package.__name__] = package
    module = upstream("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    vars(package)["Unet"] = module.Unet
    own = ("family", "image_size", "beta_schedule", "objective")
    network = module.Unet(**{k: v for k, v in options.items() if k not in own})
    diffusion = module.GaussianDiffusion(network, **{k: options[k] for k in own[1:]})

    def denoise(x: Tensor, place: int, labels: Tensor | None) -> Tensor:
        noisy = x / (1 + levels[place] ** 2) ** 0.5
        step = torch.full((len(x),), STEPS[place])
        return diffusion.model_predictions(noisy, step).pred_x_start  # type: ignore[no-any-return]

    return diffusion, denoise


def _time(sigma: float) -> float:
    """Return the time of a noise level of the process of U-ViT's `sde.py`, as ours rounds it."""
    ours: Any = build_denoiser(
        {
            "precond": "vp",
            "model_type": "UViT",
            "img_resolution": 2,
            "img_channels": 1,
            "label_dim": 0,
            "patch_size": 1,
            "embed_dim": 4,
            "depth": 2,
            "num_heads": 1,
        }
    )
    return float(ours.coefficients(torch.tensor(sigma))[3]) / 999


_FLAGS: Options = {
    "image_size": 16,
    "num_channels": 64,
    "num_res_blocks": 2,
    "channel_mult": "1,2,3",
    "attention_resolutions": "8,4",
    "class_cond": True,
    "num_classes": CLASSES,
    "num_head_channels": 16,
}
_ADM: Options = {
    **_FLAGS,
    "family": "guided-diffusion",
    "learn_sigma": True,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
}
_UNET: Options = {
    "image_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 64,
    "attention_resolutions": [2, 4],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 3],
}
_LATENT: Options = {"linear_start": 0.0015, "linear_end": 0.0195, "timesteps": 1000}
_TOKENS: Options = {
    "family": "u-vit",
    "img_size": 16,
    "patch_size": 2,
    "embed_dim": 64,
    "depth": 6,
    "num_heads": 4,
}
_PIXELS: Options = {"family": "lucidrains", "image_size": 16, "dim": 16, "dim_mults": [1, 2, 4]}
CASES = {
    "guided diffusion, cosine, new attention order": Case(
        "guided_diffusion",
        _guided,
        {**_ADM, "noise_schedule": "cosine", "use_new_attention_order": True},
    ),
    "guided diffusion, linear": Case(
        "guided_diffusion", _guided, {**_ADM, "noise_schedule": "linear"}
    ),
    "guided diffusion, plain blocks, no classes": Case(
        "guided_diffusion",
        _guided,
        {
            **_FLAGS,
            "family": "guided-diffusion",
            "class_cond": False,
            "use_scale_shift_norm": False,
            "num_head_channels": -1,
            "num_heads": 2,
            "num_heads_upsample": 4,
        },
    ),
    "consistency, teacher": Case(
        "cm", _consistency, {**_FLAGS, "family": "consistency", "training_mode": "edm"}
    ),
    "consistency, distilled": Case(
        "cm",
        _consistency,
        {
            **_FLAGS,
            "family": "consistency",
            "training_mode": "consistency_distillation",
            "use_scale_shift_norm": True,
            "resblock_updown": True,
        },
    ),
    "latent diffusion, classes": Case(
        "ldm",
        _latent,
        {
            "model": {
                "params": {
                    **_LATENT,
                    "unet_config": {
                        "params": {
                            **_UNET,
                            "num_heads": 1,
                            "use_spatial_transformer": True,
                            "transformer_depth": 1,
                            "context_dim": 32,
                        }
                    },
                    "cond_stage_config": {
                        "target": "ldm.modules.encoders.modules.ClassEmbedder",
                        "params": {"n_classes": CLASSES + 1, "null_label": True},
                    },
                }
            }
        },
    ),
    "latent diffusion, no classes": Case(
        "ldm",
        _latent,
        {
            "model": {
                "params": {
                    **_LATENT,
                    "unet_config": {"params": {**_UNET, "num_head_channels": 32}},
                }
            }
        },
    ),
    "U-ViT, latents, classes": Case(
        "libs/uvit.py",
        _uvit,
        {
            **_TOKENS,
            "process": "discrete",
            "num_classes": CLASSES + 1,
            "null_label": True,
            "in_chans": 4,
            "conv": False,
        },
        "out_blocks",
    ),
    "U-ViT, pixels, embedded time": Case(
        "libs/uvit.py",
        _uvit,
        {**_TOKENS, "process": "vpsde", "mlp_time_embed": True, "qkv_bias": True},
        "out_blocks",
    ),
    "lucidrains, sigmoid, velocity": Case(
        "denoising_diffusion_pytorch",
        _lucidrains,
        {**_PIXELS, "beta_schedule": "sigmoid", "objective": "pred_v"},
        "",
    ),
    "lucidrains, linear, noise": Case(
        "denoising_diffusion_pytorch",
        _lucidrains,
        {**_PIXELS, "beta_schedule": "linear", "objective": "pred_noise"},
        "",
    ),
}
