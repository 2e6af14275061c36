"""Pipelines of diffusers as files: what is read, hashed, found, refused, and what is sampled."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from skiptune.errors import NetworkError, SpecError, render
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample, sample_float
from skiptune.sampling.pipeline_files import content_digest, hub_folder
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.schedulers import read_scheduler
from skiptune.sampling.setting import Setting
from tests.pipelines import random_unet, write_pipeline
from tests.vaes import random_vae


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("pipelines") / "tiny-ddpm")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "tiny-ddpm"))


def rewrite(path: Path, **changes: Any) -> None:
    """Change a JSON file; `...` stands for no such key."""
    plain = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in plain.items() if v is not ...}))


def test_a_checkpoint_says_what_it_was_read_from(folder: Path) -> None:
    found = load_checkpoint(folder)
    assert (found.name, found.path) == ("tiny-ddpm", folder)
    assert found.image_shape == (1, 8, 8)
    assert found.config["pipeline"] == "DDIMPipeline"
    assert found.config["label_dim"] == 0
    assert len(found.skips) == 4
    assert not found.network.training
    assert not any(p.requires_grad for p in found.network.parameters())
    assert load_checkpoint(str(folder), sha256=found.sha256.upper()).sha256 == found.sha256
    with pytest.raises(NetworkError, match="sha256"):
        load_checkpoint(folder, sha256="0" * 64)


def test_the_hash_is_of_what_the_network_computes(folder: Path, tmp_path: Path) -> None:
    before, size = content_digest(folder)
    unet = folder / "unet"
    paths = (unet / "config.json", unet / "diffusion_pytorch_model.safetensors",
             folder / "scheduler" / "scheduler_config.json")  # fmt: skip
    assert size == sum(path.stat().st_size for path in paths)
    # Where it lies, how it is called and what else is beside it is no content.
    moved = Path(shutil.copytree(folder, tmp_path / "other name"))
    (moved / "README.md").write_text("words")
    rewrite(moved / "model_index.json", _class_name="DDPMPipeline")
    assert content_digest(moved) == (before, size)
    for path in paths:
        kept = path.read_bytes()
        path.write_bytes(kept + b" ")
        assert content_digest(folder)[0] != before
        path.write_bytes(kept)
    assert content_digest(folder)[0] == before


def test_old_layouts_names_shards_and_half_precision_are_read(
    folder: Path, tmp_path: Path
) -> None:
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = load_checkpoint(folder).network(x, 1.0)
    unet = folder / "unet"
    weights = unet / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    # Of before diffusers 0.15.
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in tensors.items():
        for new, before in old.items():
            if ".attentions." in name:
                name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = tensor
    assert set(renamed) != set(tensors)
    save_file(renamed, weights)
    assert torch.equal(load_checkpoint(folder).network(x, 1.0), expected)
    # Several files.
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in parts.items():
        save_file({name: tensors[name] for name in some}, unet / file)
    index = {"weight_map": {name: file for file, some in parts.items() for name in some}}
    (unet / f"{weights.name}.index.json").write_text(json.dumps(index))
    weights.unlink()
    assert torch.equal(load_checkpoint(folder).network(x, 1.0), expected)
    (unet / "b.safetensors").unlink()
    with pytest.raises(NetworkError, match=r"b\.safetensors"):
        load_checkpoint(folder)
    rewrite(unet / f"{weights.name}.index.json", weight_map={"a": "../../a.safetensors"})
    with pytest.raises(NetworkError, match="weight_map"):
        load_checkpoint(folder)
    # Half precision computes in float32.
    half = {name: tensor.half() for name, tensor in tensors.items()}
    save_file(half, unet / "diffusion_pytorch_model.fp16.safetensors")
    found = load_checkpoint(folder).network(x, 1.0)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=0.02)
    # Components beside the index.
    save_file(tensors, weights)
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (folder / "model_index.json", weights, unet / "config.json",
                 folder / "scheduler" / "scheduler_config.json"):  # fmt: skip
        shutil.copy(path, flat)
    assert torch.equal(load_checkpoint(flat).network(x, 1.0), expected)


def test_a_repository_that_the_hubs_client_has_fetched_is_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "cache"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    with pytest.raises(NetworkError) as caught:
        load_checkpoint("owner/tiny")
    assert str(cache / "models--owner--tiny") in render(caught.value)
    assert "hf download owner/tiny" in caught.value.hint
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = cache / "models--owner--tiny"
    shutil.copytree(folder, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    found = load_checkpoint("owner/tiny")
    assert (found.name, found.sha256) == ("tiny", content_digest(folder)[0])
    for name in ("../tiny", "owner/tiny/more", "tiny", "/owner/tiny"):
        assert hub_folder(name) is None
    (repository / "refs" / "main").write_text("../../..")
    assert hub_folder("owner/tiny") is None


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"unet": ..., "_class_name": "FluxPipeline",
          "transformer": ["diffusers", "FluxTransformer2DModel"]}, "FluxTransformer2DModel"),
        ({"unet": ..., "_class_name": "DiTPipeline",
          "transformer": ["diffusers", "DiTTransformer2DModel"]}, "no encoder's output skips"),
        ({"unet": [None, None]}, "DDIMPipeline without one"),
        ({"unet": ["diffusers", "UNet3DConditionModel"]}, "UNet3DConditionModel"),
        ({"scheduler": ...}, "what noise the network was trained on"),
        ({"vae": ["diffusers", "AutoencoderKL"]}, "vae"),
        ({"vqvae": ["diffusers", "VQModel"]}, "VQModel"),
    ],
)  # fmt: skip
def test_pipelines_of_other_parts_are_refused(
    folder: Path, index: dict[str, Any], said: str
) -> None:
    rewrite(folder / "model_index.json", **index)
    with pytest.raises(NetworkError, match=said) as caught:
        load_checkpoint(folder)
    assert len(render(caught.value).splitlines()) <= 6


def spoil(path: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder / path, **changes)


def remove(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


def text_file(path: str, text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / path).write_text(text)


def to_pickle(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))


def cut_off(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (remove("model_index.json"), "a folder without it"),
        (text_file("model_index.json", "[1]"), "a list"),
        (text_file("model_index.json", "{"), "JSON object"),
        (remove("unet/config.json"), "config.json"),
        (remove("scheduler/scheduler_config.json"), "scheduler_config.json"),
        (to_pickle, "a pickle, which runs code"),
        (cut_off, "cut off"),
        (spoil("scheduler/scheduler_config.json", _class_name="LCMScheduler"), "LCMScheduler"),
        (spoil("unet/config.json", sample_size=16, block_out_channels=[32, 32]), "shapes"),
        (spoil("unet/config.json", sample_size=[8, 16]), "square"),
        (spoil("unet/config.json", sample_size=None), "square"),
        (spoil("unet/config.json", in_channels=9), "nothing but the noisy image"),
        (spoil("unet/config.json", class_embed_type="timestep"), "class_embed_type"),
        (spoil("unet/config.json", time_embedding_type="fourier"), "time_embedding_type"),
        (spoil("unet/config.json", layers_per_block=10**9), "at most 64"),
        (spoil("unet/config.json", block_out_channels=[1] * 10**4), "at most 64"),
        (spoil("unet/config.json", norm_num_groups=7), "configuration of a UNet2DModel"),
        (spoil("unet/config.json", down_block_types=["NoBlock"] * 2), "NoBlock"),
    ],
)
def test_damaged_pipelines_are_refused_in_words(
    folder: Path, change: Callable[[Path], Any], said: str
) -> None:
    change(folder)
    with pytest.raises(NetworkError, match=said) as caught:
        load_checkpoint(folder)
    text = render(caught.value)
    assert len(text.splitlines()) <= 9
    assert "hint: " in text


def test_what_is_missing_is_told_at_once(folder: Path) -> None:
    (folder / "unet" / "config.json").unlink()
    to_pickle(folder)
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(NetworkError) as caught:
        load_checkpoint(folder)
    assert len(caught.value.problems) == 3


def test_a_missing_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(NetworkError, match=r"pip install 'skiptune\[diffusers\]'"):
        load_checkpoint(folder)


# Sampling


def test_series_of_images_do_not_depend_on_company(folder: Path) -> None:
    network = load_checkpoint(folder).network
    setting = Setting(solver="dpmpp_2m", steps=3, sigma_min=0.02, sigma_max=100.0)
    (first,) = sample(network, setting, [1, 2, 3], microbatch=3)
    (second,) = sample(network, setting, [3], microbatch=3)
    assert torch.equal(first.images[2:], second.images)
    assert first.nfe == 3
    schedule = Schedule.uniform({"up_blocks.1.resnets.0": 0.5})
    with scaled(network, schedule):
        (third,) = sample(network, setting, [1, 2, 3], microbatch=3)
    assert not torch.equal(first.images, third.images)


def test_levels_round_to_timesteps_that_were_trained(folder: Path) -> None:
    network: Any = load_checkpoint(folder).network
    trained = network.scheduler.levels
    wanted = torch.tensor([0.02, 1.0, 37.5], dtype=torch.float64)
    found = network.round_sigma(wanted).tolist()
    for sigma, level in zip(wanted.tolist(), found, strict=True):
        assert abs(level - sigma) == min(abs(other - sigma) for other in trained)
    config = {"_class_name": "EulerDiscreteScheduler"}
    network.scheduler = read_scheduler(config, where="test")
    assert network.round_sigma(wanted).tolist() == wanted.tolist()
    # Between two levels as numpy.interp has it, and at them exactly.
    times = network._times(torch.tensor([trained[0], trained[5], (trained[5] + trained[6]) / 2]))
    assert times.tolist() == pytest.approx([0, 5, 5.5], abs=1e-3)
    network.scheduler = replace(network.scheduler, times="log")
    middle = math.sqrt(trained[5] * trained[6])
    assert network._times(torch.tensor([middle])).tolist() == pytest.approx([5.5], abs=1e-3)
    assert math.isclose(network.start_std(2.0), 2.0)


def test_settings_that_it_was_not_trained_for_are_refused(tmp_path: Path) -> None:
    unet = random_unet(num_class_embeds=3)
    network = load_checkpoint(write_pipeline(tmp_path / "classes", unet=unet)).network
    setting = Setting(solver="euler", steps=2, sigma_min=0.02, sigma_max=100.0)
    assert sample_float(network, setting, [0]).shape == (1, 1, 8, 8)
    unet = random_unet("UNet2DConditionModel", num_class_embeds=3)
    with pytest.raises(NetworkError, match=r"num_class_embeds: expected null, because .* text"):
        load_checkpoint(write_pipeline(tmp_path / "both", unet=unet, vae=random_vae()))
    for change in ({"labels": None}, {"guidance": 2.0}):
        with pytest.raises(SpecError, match="without"):
            sample_float(network, replace(setting, **change), [0])
    with pytest.raises(SpecError, match="highest noise level"):
        sample_float(network, replace(setting, sigma_max=200.0), [0])
    unet = random_unet("UNet2DConditionModel")
    text = load_checkpoint(write_pipeline(tmp_path / "text", unet=unet, vae=random_vae())).network
    with pytest.raises(SpecError, match="reads text"):
        sample_float(text, setting, [0])
    with pytest.raises(NetworkError, match="reads text"):
        text(torch.zeros(1, 4, 8, 8), 1.0)
