"""Decoders: diffusers' own numbers, EDM2's convention, bytes, identity, and what is refused."""

from __future__ import annotations

import json
import math
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from skiptune.canonical import digest, file_digest
from skiptune.errors import NetworkError
from skiptune.sampling.checkpoint import Checkpoint, load_checkpoint
from skiptune.sampling.decoder import Decoder, load_decoder
from skiptune.sampling.describe import describe
from skiptune.sampling.hooks import apply, scaled
from skiptune.sampling.images import sample, sample_float
from skiptune.sampling.latents import CONVENTIONS, WEIGHTS_FILE, latents_of, vae_files
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.setting import Setting
from tests.vaes import VAE_CONFIG, random_vae, write_latent_network, write_vae

SETTING = Setting(solver="euler", steps=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_vae(tmp_path / "vae")


@pytest.fixture
def checkpoint(tmp_path: Path, folder: Path, device: str) -> Checkpoint:
    """A network of latents with its decoder."""
    path = write_latent_network(tmp_path / "latents.safetensors")
    loaded = load_checkpoint(path, device=device)
    return replace(loaded, decoder=load_decoder(folder, latents="edm2", device=device))


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the configuration; a value of None stands for itself, `...` for no such key."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


# The numbers


@pytest.mark.parametrize("count", [1, 5, 7])
def test_floats_are_what_diffusers_decodes(folder: Path, count: int) -> None:
    decoder = load_decoder(folder, microbatch=count)
    latents = noise(count)
    # As its pipelines do it: latents / scaling_factor, then decode.
    expected = random_vae().decode(latents / VAE_CONFIG["scaling_factor"]).sample
    assert torch.equal(decoder.floats(latents), expected.double())
    few = load_decoder(folder, microbatch=2).floats(latents)
    assert few.shape == (count, 3, 8, 8)
    assert torch.allclose(few, expected.double(), atol=1e-5)


def test_bytes_are_those_of_diffusers_pipelines(folder: Path) -> None:
    from diffusers.image_processor import VaeImageProcessor

    decoder = load_decoder(folder, microbatch=6)
    latents = noise(6) * 3
    pixels = random_vae().decode(latents / VAE_CONFIG["scaling_factor"]).sample
    pictures = VaeImageProcessor().postprocess(pixels, output_type="pil")
    expected = np.stack([np.asarray(picture) for picture in pictures]).transpose(0, 3, 1, 2)
    images, finite = decoder.images(latents)
    assert finite.all()
    assert np.array_equal(images.numpy(), expected)
    assert len(np.unique(expected)) > 50


def test_edm2s_bytes_are_those_of_its_formula(folder: Path) -> None:
    """NVlabs/edm2, `training/encoders.py`, written out: deviation 0.5, images in 0..1, cut off."""
    decoder = load_decoder(folder, latents="edm2", microbatch=6)
    latents = noise(6, 1) / 2
    mean = np.array([5.81, 3.25, 0.12, -2.15], dtype=np.float32)
    scale = np.float32(0.5) / np.array([4.17, 4.62, 3.71, 3.28], dtype=np.float32)
    bias = np.float32(0) - mean * scale
    z = (latents - torch.tensor(bias)[:, None, None]) / torch.tensor(scale)[:, None, None]
    pixels = random_vae().decode(z).sample
    assert torch.allclose(decoder.floats(latents), pixels.double() * 2 - 1, atol=1e-5)
    expected = (pixels.clip(0, 1) * 255).to(torch.uint8)
    images, _ = decoder.images(latents)
    # A rounding error of 1e-6 may carry a pixel over the edge at which it is cut off.
    wrong = images != expected
    assert wrong.float().mean() < 0.01
    assert (images.int() - expected.int()).abs().max() <= 1
    # Nearest bytes are other ones: half of them.
    nearest = (pixels.clip(0, 1) * 255).round().to(torch.uint8)
    assert (images != nearest).float().mean() > 0.1


@pytest.mark.parametrize(
    ("changes", "mean", "std"),
    [
        ({"scaling_factor": 0.5}, [0.0] * 4, [2.0] * 4),
        # Stable Diffusion 3: latents / scaling_factor + shift_factor.
        ({"scaling_factor": 0.5, "shift_factor": 0.25}, [0.25] * 4, [2.0] * 4),
        # SDXL's pipeline: latents * latents_std / scaling_factor + latents_mean.
        (
            {"scaling_factor": 0.5, "latents_mean": [1, 2, 3, 4], "latents_std": [1, 2, 4, 8]},
            [1.0, 2.0, 3.0, 4.0],
            [2.0, 4.0, 8.0, 16.0],
        ),
    ],
)
def test_the_configuration_says_what_latents_mean(
    folder: Path, changes: dict[str, Any], mean: list[float], std: list[float]
) -> None:
    rewrite(folder, **changes)
    decoder = load_decoder(folder, microbatch=3)
    latents = noise(3).double()
    per_channel = torch.tensor([mean, std], dtype=torch.float64)[:, None, :, None, None]
    z = latents * per_channel[1] + per_channel[0]
    expected = random_vae().decode(z.float()).sample
    assert torch.equal(decoder.floats(latents), expected.double())


def test_names_of_old_files_are_read(folder: Path) -> None:
    """As `stabilityai/sd-vae-ft-mse` has them, which diffusers renames too."""
    expected = load_decoder(folder).floats(noise(2))
    tensors = load_file(folder / WEIGHTS_FILE)
    for new, old in {
        "to_q": "query",
        "to_k": "key",
        "to_v": "value",
        "to_out.0": "proj_attn",
    }.items():
        tensors = {
            key.replace(f".attentions.0.{new}.", f".attentions.0.{old}."): value
            for key, value in tensors.items()
        }
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in tensors
    save_file(tensors, folder / WEIGHTS_FILE)
    assert torch.equal(load_decoder(folder).floats(noise(2)), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_near_and_another_decoder(folder: Path, dtype: str) -> None:
    exact, half = load_decoder(folder), load_decoder(folder, dtype=dtype)
    assert next(half.vae.parameters()).dtype == getattr(torch, dtype)
    assert half.floats(noise(2)).dtype == torch.float64
    error = (half.floats(noise(2)) - exact.floats(noise(2))).abs().max()
    assert 0 < error < 0.1
    assert half.describe() != exact.describe()


# Sampling


def test_images_do_not_depend_on_split_order_or_company(checkpoint: Checkpoint) -> None:
    decoder = checkpoint.decoder
    assert decoder is not None

    def images(seeds: Any, microbatch: int = 4) -> Tensor:
        batches = sample(
            checkpoint.network, SETTING, seeds, microbatch=microbatch, decoder=decoder
        )
        return torch.cat([batch.images for batch in batches])

    whole = images(range(100, 112))
    assert whole.shape == (12, *checkpoint.image_shape) == (12, 3, 8, 8)
    assert whole.dtype == torch.uint8
    assert not whole.is_inference()
    assert len(whole.unique(dim=0)) == 12
    assert torch.equal(images([111, 103, 108]), whole[[11, 3, 8]])
    assert torch.equal(
        torch.cat([images(range(106, 112)), images(range(100, 106))])[6:], whole[:6]
    )


@pytest.mark.parametrize("count", [3, 4, 9])
def test_the_vae_always_sees_its_own_microbatch(folder: Path, count: int) -> None:
    """So that memory is bounded, and an image the same in any company."""
    decoder = load_decoder(folder, microbatch=4)
    seen: list[int] = []
    vae: Any = decoder.vae
    vae.decoder.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    latents = noise(count)
    images, finite = decoder.images(latents)
    assert images.shape == (count, 3, 8, 8)
    assert finite.shape == (count,)
    assert seen == [4] * -(-count // 4)
    floats = decoder.floats(latents)
    assert floats.shape == images.shape
    alone = torch.cat([decoder.floats(latents[i : i + 1]) for i in range(count)])
    assert torch.equal(alone, floats)


def test_floats_and_bytes_are_of_the_same_images(checkpoint: Checkpoint) -> None:
    decoder = checkpoint.decoder
    [batch] = sample(checkpoint.network, SETTING, range(6), microbatch=6, decoder=decoder)
    floats = sample_float(checkpoint.network, SETTING, range(6), decoder=decoder)
    assert floats.dtype == torch.float64
    levels = (floats.clamp(-1, 1) + 1) * 127.5
    assert (levels - batch.images).min() > -1e-3
    assert (levels - batch.images).max() < 1 + 1e-3


def test_the_way_from_scales_to_decoded_floats_is_differentiable(
    checkpoint: Checkpoint, device: str
) -> None:
    decoder, address = checkpoint.decoder, checkpoint.skips[-1].address

    def mean(scale: Tensor) -> Tensor:
        with scaled(checkpoint.network, {address: scale}):
            images = sample_float(checkpoint.network, SETTING, [3, 4], decoder=decoder)
        return (images * torch.linspace(0, 1, 8, dtype=torch.float64, device=device)).mean()

    scale = torch.tensor(1.1, dtype=torch.float64, device=device, requires_grad=True)
    [gradient] = torch.autograd.grad(mean(scale), scale)
    step = 1e-2
    with torch.no_grad():
        change = mean(scale + step) - mean(scale - step)
    assert float(gradient) == pytest.approx(float(change) / (2 * step), rel=0.05)
    assert gradient != 0


def test_a_latent_that_is_not_finite_is_told_and_black(checkpoint: Checkpoint) -> None:
    class Broken(torch.nn.Module):
        """Makes infinity of the second image of every batch."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = checkpoint.network
            self.img_channels, self.img_resolution, self.label_dim = 4, 4, 3

        def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
            estimate: Tensor = self.inner(x, sigma, labels).clone()
            estimate[1] = torch.inf
            return estimate

    decoder = checkpoint.decoder
    [good] = sample(checkpoint.network, SETTING, range(3), microbatch=3, decoder=decoder)
    [batch] = sample(Broken().eval(), SETTING, range(3), microbatch=3, decoder=decoder)
    assert batch.finite.tolist() == [True, False, True]
    assert (batch.images[1] == 0).all()
    assert torch.equal(batch.images[[0, 2]], good.images[[0, 2]])


def test_an_image_that_overflows_is_told_though_its_latent_is_finite(folder: Path) -> None:
    decoder = load_decoder(folder, dtype="float16", microbatch=2)
    latents = torch.stack([noise(1)[0], torch.full((4, 4, 4), 1e6)])
    images, finite = decoder.images(latents)
    assert finite.tolist() == [True, False]
    assert (images[1] == 0).all()
    assert images[0].unique().numel() > 10


def test_a_schedule_reaches_decoded_images(checkpoint: Checkpoint) -> None:
    handle = apply(checkpoint.network, Schedule([Term(checkpoint.skips[0].address, 0.5)]))
    [batch] = sample(checkpoint.network, SETTING, [1], microbatch=1, decoder=checkpoint.decoder)
    handle.remove()
    [base] = sample(checkpoint.network, SETTING, [1], microbatch=1, decoder=checkpoint.decoder)
    assert not torch.equal(batch.images, base.images)


# Identity


def test_everything_that_changes_images_changes_the_series(
    checkpoint: Checkpoint, folder: Path, tmp_path: Path
) -> None:
    loaded = load_decoder(folder, latents="edm2")
    others = [
        None,
        loaded,
        load_decoder(folder),
        load_decoder(folder, latents="edm2", microbatch=4),
        load_decoder(folder, latents="edm2", dtype="bfloat16"),
        replace(loaded, sha256="0" * 64),
    ]
    # Other groups for the same weights: other numbers.
    rewrite(folder, norm_num_groups=1)
    regrouped = load_decoder(folder, latents="edm2")
    assert not torch.equal(regrouped.floats(noise(1)), loaded.floats(noise(1)))
    others.append(regrouped)
    series = [describe(replace(checkpoint, decoder=other), Setting()) for other in others]
    assert len({digest(one) for one in series}) == len(others)
    assert "decoder" not in series[0]
    assert series[1]["decoder"]["sha256"] == file_digest(folder / WEIGHTS_FILE)
    assert digest(json.loads(json.dumps(series[1], allow_nan=False))) == digest(series[1])


def test_where_a_decoder_lies_and_who_wrote_its_configuration_do_not(
    folder: Path, tmp_path: Path
) -> None:
    first = load_decoder(folder).describe()
    weights, config = tmp_path / "a.safetensors", tmp_path / "b.json"
    (folder / WEIGHTS_FILE).rename(weights)
    (folder / "config.json").rename(config)
    plain = json.loads(config.read_text())
    plain |= {"_diffusers_version": "0.1.0", "sample_size": 512, "_name_or_path": "elsewhere"}
    config.write_text(json.dumps(plain))
    moved = load_decoder(weights, config=config)
    assert moved.describe() == first
    assert (moved.name, load_decoder(weights, config=config).path) == (tmp_path.name, weights)


def test_only_the_decoding_half_is_kept(folder: Path) -> None:
    whole = sum(p.numel() for p in random_vae().parameters())
    kept = sum(p.numel() for p in load_decoder(folder).vae.parameters())
    half = [random_vae().decoder, random_vae().post_quant_conv]
    assert kept == sum(p.numel() for part in half for p in part.parameters()) < whole


def test_files_are_found_by_the_end_of_a_name() -> None:
    beside = (Path("a/v1.5") / WEIGHTS_FILE, Path("a/v1.5/config.json"))
    assert vae_files("a/v1.5") == vae_files(Path("a/v1.5/")) == beside
    half = Path("vae/diffusion_pytorch_model.fp16.safetensors")
    assert vae_files(half) == (half, Path("vae/config.json"))


# Refusals


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()


def cut(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-1])


def a_pickle(folder: Path) -> None:
    (folder / WEIGHTS_FILE).write_bytes(pickle.dumps({"decoder": 1}))


def another_width(folder: Path) -> None:
    rewrite(folder, block_out_channels=[4, 4])


def a_missing_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    del tensors["decoder.conv_in.bias"]
    save_file(tensors, folder / WEIGHTS_FILE)


def whole_numbers(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    tensors["decoder.conv_in.bias"] = tensors["decoder.conv_in.bias"].int()
    save_file(tensors, folder / WEIGHTS_FILE)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def half_a_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"_class_name": ')


def a_long_config(folder: Path) -> None:
    (folder / "config.json").write_text(" " * 70_000 + "{}")


def nested(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 60_000)


@pytest.mark.parametrize(
    ("damage", "expected", "found"),
    [
        (no_weights, "a VAE's weights", "no such file"),
        (cut, "a complete safetensors file", "bytes that are none"),
        (a_pickle, "which holds no code", "a pickle"),
        (another_width, "tensors with which its configuration decodes", "shapes: "),
        (a_missing_tensor, "tensors with which", "missing: decoder.conv_in.bias"),
        (whole_numbers, "tensors with which", "decoder.conv_in.bias of whole numbers"),
        (no_config, "the configuration of an AutoencoderKL", "no such file"),
        (half_a_config, "the configuration of an AutoencoderKL", "line 1"),
        (a_long_config, "the configuration of an AutoencoderKL", "more than 65536 bytes"),
        (nested, "the configuration of an AutoencoderKL", "recursion"),
    ],
)
def test_damaged_files_are_refused(
    folder: Path, damage: Callable[[Path], None], expected: str, found: str
) -> None:
    damage(folder)
    with pytest.raises(NetworkError) as caught:
        load_decoder(folder)
    [problem] = caught.value.problems
    assert str(folder) in problem.where
    assert expected in problem.expected
    assert found in problem.found


@pytest.mark.parametrize(
    ("changes", "expected", "found"),
    [
        ({"_class_name": "AutoencoderTiny"}, "AutoencoderKL or VQModel", "'AutoencoderTiny'"),
        ({"_class_name": ...}, "AutoencoderKL", "None"),
        ({"up_block_types": ["NoSuchBlock"] * 2}, "configuration of an", "NoSuchBlock"),
        ({"norm_num_groups": 3}, "configuration of an", "divisible"),
        ({"block_out_channels": "wide"}, "configuration of an", ""),
        ({"latent_channels": 0}, "configuration of an", "latent_channels 0"),
        ({"norm_num_groups": 0}, "configuration of an", "zero"),
        ({"layers_per_block": 10**12}, "configuration of an", "layers_per_block asks for more"),
        ({"layers_per_block": "2"}, "configuration of an", ""),
        ({"block_out_channels": [4] * 1000}, "configuration of an", "more than any VAE has"),
        ({"block_out_channels": [4, 10**12]}, "configuration of an", ""),
        ({"scaling_factor": 0}, "a number above 0", "0"),
        ({"scaling_factor": "big"}, "a finite number", "'big'"),
        ({"scaling_factor": 10**400}, "a finite number", "1000"),
        ({"scaling_factor": math.inf}, "a finite number", "inf"),
        ({"latents_mean": [0, 0, 0, 0]}, "`latents_mean` and `latents_std`", "None"),
        ({"latents_mean": [0, 0], "latents_std": [1, 1]}, "4 finite numbers", "[0, 0]"),
        (
            {"latents_mean": [0] * 4, "latents_std": [1, 1, 1, 0]},
            "numbers above 0",
            "[1, 1, 1, 0]",
        ),
    ],
)
def test_configurations_that_say_nothing_sound_are_refused(
    folder: Path, changes: dict[str, Any], expected: str, found: str
) -> None:
    rewrite(folder, **changes)
    with pytest.raises(NetworkError) as caught:
        load_decoder(folder)
    [problem] = caught.value.problems
    assert str(folder / "config.json") in problem.where
    assert expected in problem.expected
    assert found in problem.found


def test_all_problems_come_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "config.json").unlink()
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(NetworkError) as caught:
        load_decoder(folder, sha256="0" * 64, dtype="float8", microbatch=0)
    wheres = [problem.where for problem in caught.value.problems]
    assert wheres == [
        "decoder: dtype",
        "decoder: microbatch",
        "decoder",
        f"{folder / WEIGHTS_FILE}: sha256",
        str(folder / "config.json"),
    ]
    assert "pip install 'skiptune[diffusers]'" in caught.value.hint


def test_an_installation_that_does_not_load_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        @property
        def AutoencoderKL(self) -> Any:  # noqa: N802
            raise RuntimeError("Failed to import diffusers.models\nbecause of torchvision")

    monkeypatch.setitem(sys.modules, "diffusers", Broken())
    with pytest.raises(NetworkError, match=r"import diffusers\.models because of torchvision \("):
        load_decoder(folder)


@pytest.mark.parametrize(("channels", "hint"), [(3, "makes pixels"), (8, "trained with")])
def test_latents_of_another_shape_are_refused(folder: Path, channels: int, hint: str) -> None:
    with pytest.raises(NetworkError, match=f"4 channels, found one of {channels}.*{hint}"):
        load_decoder(folder, channels=channels)
    with pytest.raises(NetworkError, match=f"4 channels, found one of {channels}"):
        load_decoder(folder).check(channels)


def test_a_network_of_pixels_is_not_decoded(tiny_network: Any, folder: Path) -> None:
    with pytest.raises(NetworkError, match="makes pixels"):
        sample(tiny_network, SETTING, [0], decoder=load_decoder(folder))
    with pytest.raises(NetworkError, match="makes pixels"):
        sample_float(tiny_network, SETTING, [0], decoder=load_decoder(folder))


def test_conventions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(NetworkError, match=r"config: latent_channels: expected 4, .* found 16"):
        latents_of("edm2", {"latent_channels": 16}, where="config")
    with pytest.raises(NetworkError, match=f"one of {', '.join(CONVENTIONS)}, found 'sd'"):
        latents_of("sd", {"latent_channels": 4}, where="config")


def test_a_decoder_is_one_object_to_compare(folder: Path) -> None:
    decoder = load_decoder(folder)
    assert isinstance(decoder, Decoder)
    assert (decoder.channels, decoder.image_channels, decoder.factor) == (4, 3, 2)
    assert decoder.name == "vae"
