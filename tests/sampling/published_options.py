"""Options of published networks, word for word as their authors give them; and of tiny ones."""

from __future__ import annotations

from typing import Any

__all__ = ["ADM_64", "ADM_256", "CIN_256", "CM_64", "TINY", "UVIT_LATENT", "UVIT_PIXELS"]

# The README of openai/guided-diffusion, MODEL_FLAGS of the 64x64 and the 256x256 model.
ADM_64: dict[str, Any] = {
    "family": "guided-diffusion",
    "attention_resolutions": "32,16,8",
    "class_cond": True,
    "diffusion_steps": 1000,
    "dropout": 0.1,
    "image_size": 64,
    "learn_sigma": True,
    "noise_schedule": "cosine",
    "num_channels": 192,
    "num_head_channels": 64,
    "num_res_blocks": 3,
    "resblock_updown": True,
    "use_new_attention_order": True,
    "use_fp16": True,
    "use_scale_shift_norm": True,
}
ADM_256: dict[str, Any] = {
    "family": "guided-diffusion",
    "attention_resolutions": "32,16,8",
    "class_cond": "True",  # as a flag
    "diffusion_steps": 1000,
    "image_size": 256,
    "learn_sigma": "True",
    "noise_schedule": "linear",
    "num_channels": 256,
    "num_head_channels": 64,
    "num_res_blocks": 2,
    "resblock_updown": True,
    "use_fp16": True,
    "use_scale_shift_norm": True,
}
# scripts/launch.sh of openai/consistency_models, sampling from EDM models on ImageNet-64.
CM_64: dict[str, Any] = {
    "family": "consistency",
    "training_mode": "edm",
    "sigma_max": 80,
    "sigma_min": 0.002,
    "attention_resolutions": "32,16,8",
    "class_cond": True,
    "dropout": 0.1,
    "image_size": 64,
    "num_channels": 192,
    "num_head_channels": 64,
    "num_res_blocks": 3,
    "resblock_updown": True,
    "use_fp16": True,
    "use_scale_shift_norm": True,
    "weight_schedule": "karras",
}
# configs/latent-diffusion/cin256-v2.yaml of CompVis/latent-diffusion.
CIN_256: dict[str, Any] = {
    "model": {
        "base_learning_rate": 0.0001,
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": {
            "linear_start": 0.0015,
            "linear_end": 0.0195,
            "timesteps": 1000,
            "cond_stage_key": "class_label",
            "image_size": 64,
            "channels": 3,
            "conditioning_key": "crossattn",
            "use_ema": False,
            "unet_config": {
                "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
                "params": {
                    "image_size": 64,
                    "in_channels": 3,
                    "out_channels": 3,
                    "model_channels": 192,
                    "attention_resolutions": [8, 4, 2],
                    "num_res_blocks": 2,
                    "channel_mult": [1, 2, 3, 5],
                    "num_heads": 1,
                    "use_spatial_transformer": True,
                    "transformer_depth": 1,
                    "context_dim": 512,
                },
            },
            "first_stage_config": {
                "target": "ldm.models.autoencoder.VQModelInterface",
                "params": {
                    "embed_dim": 3,
                    "n_embed": 8192,
                    "ddconfig": {
                        "double_z": False,
                        "z_channels": 3,
                        "resolution": 256,
                        "in_channels": 3,
                        "out_ch": 3,
                        "ch": 128,
                        "ch_mult": [1, 2, 4],
                        "num_res_blocks": 2,
                        "attn_resolutions": [],
                        "dropout": 0.0,
                    },
                    "lossconfig": {"target": "torch.nn.Identity"},
                },
            },
            "cond_stage_config": {
                "target": "ldm.modules.encoders.modules.ClassEmbedder",
                "params": {"n_classes": 1001, "embed_dim": 512, "key": "class_label"},
            },
        },
    }
}
# configs/imagenet256_uvit_huge.py and cifar10_uvit_small.py of baofff/U-ViT.
UVIT_LATENT: dict[str, Any] = {
    "family": "u-vit",
    "process": "discrete",
    "name": "uvit",
    "img_size": 32,
    "patch_size": 2,
    "in_chans": 4,
    "embed_dim": 1152,
    "depth": 28,
    "num_heads": 16,
    "mlp_ratio": 4,
    "qkv_bias": False,
    "mlp_time_embed": False,
    "num_classes": 1001,
    "use_checkpoint": True,
    "conv": False,
}
UVIT_PIXELS: dict[str, Any] = {
    "family": "u-vit",
    "process": "vpsde",
    "name": "uvit",
    "img_size": 32,
    "patch_size": 2,
    "embed_dim": 512,
    "depth": 12,
    "num_heads": 8,
    "mlp_ratio": 4,
    "qkv_bias": False,
    "mlp_time_embed": False,
    "num_classes": -1,
}
TINY: dict[str, Any] = {
    "family": "guided-diffusion",
    "image_size": 8,
    "in_channels": 1,
    "num_classes": 3,
    "class_cond": True,
    "num_channels": 32,
    "channel_mult": "1,2",
    "num_res_blocks": 1,
    "num_heads": 1,
    "attention_resolutions": "4",
    "noise_schedule": "cosine",
    "learn_sigma": True,
}
