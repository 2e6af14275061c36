"""Files of tensors with the options of their authors: what is read, and what is refused."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from skiptune.errors import NetworkError, render
from skiptune.sampling.networks import build_denoiser
from skiptune.sampling.options import config_of
from skiptune.sampling.published import options_file, read_options, read_published
from skiptune.sampling.skips import find_skips
from tests.sampling.families import FAMILIES, random_network
from tests.sampling.published_options import (
    ADM_64,
    ADM_256,
    CIN_256,
    CM_64,
    TINY,
    UVIT_LATENT,
    UVIT_PIXELS,
)

# What the publications and the files say of these networks, millions of numbers.
_ADM_64, _ADM_256, _CIN_256, _UVIT_S, _UVIT_H = 295.9, 553.8, 401.3, 44, 501


@pytest.mark.parametrize(
    ("options", "skips", "mixed", "millions"),
    [
        (ADM_64, 16, [3, 4, 7, 8, 11, 12], _ADM_64),
        (CM_64, 16, [3, 4, 7, 8, 11, 12], _ADM_64),
        (ADM_256, 18, [5, 6, 11, 12], _ADM_256),
        (CIN_256, 12, [5, 6, 8, 9], _CIN_256),
        (UVIT_PIXELS, 6, list(range(6)), _UVIT_S),
        ({**UVIT_PIXELS, "depth": 16}, 8, list(range(8)), None),
        ({**UVIT_LATENT, "depth": 20}, 10, list(range(10)), None),
        (UVIT_LATENT, 14, list(range(14)), _UVIT_H),
    ],
)
def test_published_networks_on_the_meta_device(
    options: dict[str, Any], skips: int, mixed: list[int], millions: float | None
) -> None:
    config = config_of(options, where="options").config
    with torch.device("meta"):
        network = build_denoiser(config)
    found = find_skips(network)
    assert len(found) == skips
    assert [skip.index for skip in found if skip.mixed] == mixed
    if millions is not None:
        numbers = sum(parameter.numel() for parameter in network.parameters())
        assert numbers / 1e6 == pytest.approx(millions, rel=0.012)


def test_what_options_mean() -> None:
    adm, cm = (config_of(options, where="options").config for options in (ADM_64, CM_64))
    assert (adm["precond"], adm["betas"], adm["timesteps"]) == ("discrete", "cosine", 1000)
    assert (adm["attention_resolutions"], adm["channel_mult"]) == ([2, 4, 8], [1, 2, 3, 4])
    assert (adm["label_dim"], adm["learn_sigma"]) == (1000, True)
    assert (cm["precond"], cm["distilled"], cm["attention_dims"]) == ("consistency", False, 2)
    made = config_of({**CM_64, "training_mode": "consistency_training"}, where="options")
    assert made.config["distilled"] is True
    fewer = {**ADM_256, "diffusion_steps": 500, "rescale_timesteps": True}
    found = config_of(fewer, where="options").config
    assert (found["beta_start"], found["beta_end"], found["told"]) == (2e-4, 0.04, 2.0)
    latent = config_of(CIN_256, where="options")
    assert latent.config["betas"] == "scaled_linear"
    assert (latent.config["label_dim"], latent.config["label_rows"]) == (1000, 1001)
    # What makes images of its latents is in its file where its options describe that.
    assert (latent.cautions, latent.stage is None) == ((), False)
    options = copy.deepcopy(CIN_256)
    del options["model"]["params"]["first_stage_config"]["params"]["ddconfig"]
    latent = config_of(options, where="options")
    assert "VQModelInterface" in latent.cautions[0] and latent.stage is None
    tokens = config_of(UVIT_LATENT, where="options").config
    assert (tokens["label_dim"], tokens["label_rows"], tokens["first"]) == (1000, 1001, 1)
    pixels = config_of(UVIT_PIXELS, where="options").config
    assert (pixels["precond"], pixels["label_dim"]) == ("vp", 0)


def _text_conditioned() -> dict[str, Any]:
    options = copy.deepcopy(CIN_256)
    options["model"]["params"]["cond_stage_config"]["target"] = "ldm.modules.BERTEmbedder"
    return options


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "family None"),
        ({**TINY, "family": "adm"}, "family 'adm'"),
        ({**TINY, "num_heds": 2}, "unknown: num_heds"),
        ({**TINY, "channel_mult": ""}, "no channel_mult"),
        ({**TINY, "image_size": "large"}, "large"),
        ({**CM_64, "training_mode": "progdist"}, "progdist"),
        ({k: v for k, v in CM_64.items() if k != "training_mode"}, "no 'training_mode'"),
        ({**UVIT_PIXELS, "process": "ddpm"}, "neither vpsde nor discrete"),
        ({**UVIT_PIXELS, "skip": False}, "without skips"),
        ({**UVIT_PIXELS, "clip_dim": 768}, "clip_dim"),
        ({"model": {"params": {}}}, "no 'unet_config'"),
        (_text_conditioned(), "BERTEmbedder"),
    ],
)
def test_options_that_describe_nothing_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(NetworkError, match="options of a network") as caught:
        config_of(options, where="net")
    assert reason in str(caught.value)
    assert len(render(caught.value).splitlines()) <= 6


def _same(tensors: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return tensors.keys() == others.keys() and all(
        torch.equal(tensor, others[name]) for name, tensor in tensors.items()
    )


@pytest.mark.parametrize("key", [None, "state_dict", "ema"])
def test_a_file_loads_strictly(tmp_path: Path, key: str | None) -> None:
    network: Any = random_network(config_of(TINY, where="options").config)
    state = network.model.state_dict()
    torch.save(state if key is None else {"step": 7, key: state}, tmp_path / "net.pt")
    read = read_published(tmp_path / "net.pt", TINY, where="options")
    twin = build_denoiser(read.config)
    twin.load_state_dict(read.tensors, strict=True)
    assert _same(twin.state_dict(), network.state_dict())
    assert read.source == (key or "state")
    assert read.parameters == sum(p.numel() for p in network.parameters())


def _latent_options() -> dict[str, Any]:
    options = copy.deepcopy(CIN_256)
    params = options["model"]["params"]
    small: dict[str, Any] = {
        "image_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "model_channels": 32,
    }
    small |= {"attention_resolutions": [2], "channel_mult": [1, 2], "num_res_blocks": 1}
    params["unet_config"]["params"] |= small | {"context_dim": 8, "num_heads": 2}
    params["cond_stage_config"]["params"] |= {"n_classes": 4, "null_label": True}
    return options


@pytest.mark.parametrize("averaged", [False, True])
def test_a_file_of_latent_diffusion_holds_more_than_the_network(
    tmp_path: Path, averaged: bool
) -> None:
    options = _latent_options()
    network: Any = random_network(config_of(options, where="options").config)
    state = network.state_dict()
    unet = {
        name.replace("model.", "model.diffusion_model.", 1): tensor
        for name, tensor in state.items()
        if "class_embedding" not in name
    }
    content = {
        **unet,
        "cond_stage_model.embedding.weight": state["model.class_embedding.weight"],
        "first_stage_model.decoder.conv_in.weight": torch.zeros(2),
        "betas": torch.zeros(1000),
    }
    if averaged:
        for name, tensor in unet.items():
            content[name] = torch.zeros_like(tensor)
            content["model_ema." + name[len("model.") :].replace(".", "")] = tensor
    torch.save({"state_dict": content, "global_step": 3}, tmp_path / "model.ckpt")
    read = read_published(tmp_path / "model.ckpt", options, where="options")
    assert _same(read.tensors, state)
    assert read.source == ("model_ema" if averaged else "state_dict")
    build_denoiser(read.config).load_state_dict(read.tensors, strict=True)


def test_a_config_of_ours_needs_no_family(tmp_path: Path) -> None:
    config = FAMILIES["uvit"].config
    network: Any = random_network(config)
    torch.save(network.model.state_dict(), tmp_path / "net.pth")
    read = read_published(tmp_path / "net.pth", config, where="options")
    assert read.config == config
    assert _same(read.tensors, network.state_dict())


class Code:
    """What a pickle would run."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_files_with_code_or_without_tensors_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "callbacks": Code()}, "code.ckpt")
    torch.save([1, 2], "list.pt")
    torch.save({"a": 1}, "empty.pt")
    Path("text.pt").write_text("no tensors")
    Path("cut.pt").write_bytes(Path("code.ckpt").read_bytes()[:200])
    for name in ("code.ckpt", "list.pt", "empty.pt", "text.pt", "cut.pt", "missing.pt"):
        with pytest.raises(NetworkError) as caught:
            read_published(name, TINY, where="options")
        assert name in str(caught.value)
        assert len(render(caught.value).splitlines()) <= 6
    assert not Path("ran").exists()


def test_options_that_make_no_network_are_refused_before_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="cannot be halved"):
        options = {**TINY, "image_size": 9, "attention_resolutions": "9"}
        read_published(tmp_path / "missing.pt", options, where="options")


def test_options_lie_beside_the_file(tmp_path: Path) -> None:
    network = tmp_path / "net.pt"
    assert options_file(network) is None
    (tmp_path / "config.json").write_text('{"family": "u-vit"}')
    assert options_file(network) == tmp_path / "config.json"
    (tmp_path / "net.yaml").write_text("family: guided-diffusion\nchannel_mult: 1,2\n")
    assert options_file(network) == tmp_path / "net.yaml"
    assert read_options(tmp_path / "net.yaml")["channel_mult"] == "1,2"
    for text in ("- a list", "a: [", "x" * (2 << 20)):
        (tmp_path / "net.yaml").write_text(text)
        with pytest.raises(NetworkError, match="mapping"):
            read_options(tmp_path / "net.yaml")
    with pytest.raises(NetworkError, match="No such file"):
        read_options(tmp_path / "other.yaml")
