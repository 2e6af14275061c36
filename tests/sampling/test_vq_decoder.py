"""Decoders with a codebook: diffusers' own `VQModel`, alone and as its pipeline has it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from skiptune.errors import NetworkError, render
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.decoder import load_decoder
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample, sample_float, start, to_uint8
from skiptune.sampling.noise import image_streams
from skiptune.sampling.pipeline_files import pipeline_files, vae_folder
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.schedulers import pipeline_levels
from skiptune.sampling.setting import Setting
from tests.pipelines import ddim, random_unet
from tests.vaes import random_vae, random_vq


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_vq().save_pretrained(tmp_path / "vq")
    return tmp_path / "vq"


def noise(count: int, channels: int = 4) -> Tensor:
    return torch.randn(count, channels, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("changes", "channels"),
    [
        ({}, 4),
        ({"scaling_factor": 0.5}, 4),
        # The first stage of LDM-4: three channels, and a codebook as wide.
        ({"latent_channels": 3}, 3),
        ({"vq_embed_dim": 2}, 2),
        ({"norm_type": "spatial", "block_out_channels": [32, 64]}, 4),
        ({"mid_block_add_attention": False}, 4),
    ],
    ids=str,
)
def test_floats_are_what_diffusers_decodes(
    tmp_path: Path, changes: dict[str, Any], channels: int
) -> None:
    vq = random_vq(**changes)
    vq.save_pretrained(tmp_path / "vq")
    decoder = load_decoder(tmp_path / "vq", microbatch=3, channels=channels)
    latents = noise(3, channels)
    expected = vq.decode(latents / vq.config.scaling_factor).sample
    assert torch.equal(decoder.floats(latents), expected.double())
    assert (decoder.channels, decoder.image_channels, decoder.factor) == (channels, 3, 2)
    images, finite = decoder.images(latents)
    assert bool(finite.all())
    levels = ((expected.double() + 1) / 2).clamp(0, 1) * 255
    assert torch.equal(images, levels.round().to(torch.uint8))


def test_a_latent_becomes_the_nearest_entry_of_the_codebook(folder: Path) -> None:
    """By squares written out, over every entry; near to an entry, all latents are one image."""
    decoder, vq = load_decoder(folder, microbatch=2), random_vq()
    entries = vq.quantize.embedding.weight
    latents = noise(2)
    away = (latents[:, None] - entries[None, :, :, None, None]).square().sum(2)
    nearest = entries[away.argmin(1)].permute(0, 3, 1, 2)
    expected = vq.decoder(vq.post_quant_conv(nearest))
    torch.testing.assert_close(decoder.floats(latents), expected.double(), atol=1e-5, rtol=1e-5)
    near = decoder.floats(nearest + 0.01 * torch.randn(nearest.shape))
    torch.testing.assert_close(near, expected.double(), atol=1e-5, rtol=1e-5)
    plain = vq.decoder(vq.post_quant_conv(latents)).double()
    assert float((plain - expected.double()).abs().max()) > 1e-2


def test_gradients_pass_the_codebook_straight(folder: Path) -> None:
    decoder, vq = load_decoder(folder, microbatch=1), random_vq()
    latents = noise(1).requires_grad_()
    decoder.floats(latents).square().sum().backward()
    entry = vq.quantize(noise(1))[0].detach().requires_grad_()
    vq.decoder(vq.post_quant_conv(entry)).double().square().sum().backward()
    assert latents.grad is not None and entry.grad is not None
    torch.testing.assert_close(latents.grad, entry.grad, atol=1e-5, rtol=1e-4)
    assert float(entry.grad.abs().max()) > 0


def test_the_codebook_is_part_of_the_decoders_identity(folder: Path, tmp_path: Path) -> None:
    described = load_decoder(folder).describe()
    assert described["architecture"]["kind"] == "VQModel"
    assert described["architecture"]["num_vq_embeddings"] == 16
    # Those without one are described as before there was this kind.
    random_vae().save_pretrained(tmp_path / "kl")
    assert "kind" not in load_decoder(tmp_path / "kl").describe()["architecture"]
    half: Any = load_decoder(folder).vae
    names = {name.split(".")[0] for name in half.state_dict()}
    assert names == {"decoder", "post_quant_conv", "quantize"}


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_cannot_be_decoded_is_refused(folder: Path) -> None:
    for dtype in ("float16", "bfloat16"):
        with pytest.raises(NetworkError, match="nearest entry of its codebook") as caught:
            load_decoder(folder, dtype=dtype)
        assert len(render(caught.value).splitlines()) <= 6
    with pytest.raises(NetworkError, match="latents of 4 channels"):
        load_decoder(folder, channels=3)
    change(folder, num_vq_embeddings=32)
    with pytest.raises(NetworkError, match=r"quantize\.embedding\.weight"):
        load_decoder(folder)
    change(folder, num_vq_embeddings=16, _class_name="AutoencoderKL")
    with pytest.raises(NetworkError, match=r"quantize\.embedding\.weight"):
        load_decoder(folder)


def test_images_are_those_of_diffusers_pipeline_of_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diffusers: Any = importlib.import_module("diffusers")
    unet, vq, scheduler = random_unet(in_channels=4, out_channels=4), random_vq(), ddim()
    pipe = diffusers.LDMPipeline(vqvae=vq, unet=unet, scheduler=scheduler)
    folder = tmp_path / "ldm"
    pipe.save_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert pipeline_files(folder).vae == vae_folder(folder) == folder / "vqvae"

    checkpoint = load_checkpoint(folder)
    decoder = load_decoder(folder / "vqvae", microbatch=3, channels=4)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    *levels, _ = pipeline_levels(config, 4, where="test")
    setting = Setting(solver="euler", sigmas=tuple(levels), steps=len(levels))
    first, _ = start(checkpoint.network, setting, image_streams("edm", (3, 11, 40)))
    module = importlib.import_module(type(pipe).__module__)
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: first.clone())
    names = [skip.address for skip in checkpoint.skips]
    schedule = Schedule.uniform(dict(zip(names, (0.7, 1.3, 0.4, 1.1), strict=True)))
    with scaled(pipe.unet, schedule):
        expected = torch.from_numpy(pipe(3, num_inference_steps=4, output_type="np").images)
    with scaled(checkpoint.network, schedule):
        found = sample_float(checkpoint.network, setting, (3, 11, 40), decoder=decoder)
        [batch] = sample(checkpoint.network, setting, (3, 11, 40), microbatch=3, decoder=decoder)
    made = (found / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    # A latent on the edge between two entries may fall on either side: few pixels of one image.
    near = (made - expected.double()).abs() < 1e-3
    assert float(near.double().mean()) > 0.95
    assert torch.equal(batch.images, to_uint8(found))
    assert F.mse_loss(made, expected.double()) < 1e-3
