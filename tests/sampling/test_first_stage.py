"""The first stage of latent diffusion: CompVis's own decoder, by hand, decodes the same."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from skiptune.errors import NetworkError, render
from skiptune.sampling.decoder import load_decoder
from skiptune.sampling.first_stage import FirstStage, stage_files, tensor_names, vq_config
from skiptune.sampling.networks import build_denoiser
from skiptune.sampling.options import config_of
from skiptune.sampling.published import read_published
from tests.sampling.compvis_stage import latent_options, write_latent_diffusion
from tests.sampling.published_options import CIN_256


def read(folder: Path, options: dict[str, Any], **more: Any) -> tuple[FirstStage, Any]:
    _, own = write_latent_diffusion(folder / "model.ckpt", options, **more)
    found = read_published(folder / "model.ckpt", options, where="options")
    assert found.cautions == () and found.stage is not None
    return found.stage, own


def whole(stage: FirstStage) -> Any:
    vq = importlib.import_module("diffusers").VQModel.from_config(stage.config)
    vq.load_state_dict(stage.tensors, strict=True)
    return vq.eval()


def latents(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attn_type": "none"},
        {"attn_resolutions": [8]},
        {"attn_resolutions": [16], "ch_mult": [1, 1, 2], "num_res_blocks": 2},
    ],
    ids=str,
)
def test_diffusers_decodes_and_encodes_what_compvis_does(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    stage, own = read(tmp_path, latent_options(**changes))
    z = latents(2, 3, 8, 8)
    x = latents(2, 3, 16, 16)
    with torch.no_grad():
        vq = whole(stage)
        pairs = [(vq.decode(z).sample, own.decode(z)), (vq.encode(x).latents, own.encode(x))]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert stage.parameters == sum(t.numel() for t in own.state_dict().values())


@pytest.mark.parametrize(("said", "factor"), [({}, 1.0), ({"scale_factor": 0.5}, 0.5)])
def test_latents_are_decoded_at_their_scale(
    tmp_path: Path, said: dict[str, Any], factor: float
) -> None:
    options = latent_options()
    options["model"]["params"] |= said
    stage, own = read(tmp_path, options)
    weights, config = stage_files(tmp_path / "model.safetensors")
    assert weights.parent == config.parent == tmp_path / "vqvae"
    weights.parent.mkdir()
    save_file(stage.tensors, weights)
    config.write_text(json.dumps(stage.config))
    decoder = load_decoder(weights.parent, microbatch=2, channels=3)
    z = latents(2, 3, 8, 8)
    with torch.no_grad():
        expected = own.decode(z / factor).double()
    torch.testing.assert_close(decoder.floats(z), expected, atol=1e-5, rtol=1e-4)


def test_a_scale_of_the_training_stands_in_the_file(tmp_path: Path) -> None:
    options = latent_options()
    options["model"]["params"]["scale_by_std"] = True
    stage, _ = read(tmp_path, options, scale_factor=torch.tensor(0.25))
    assert stage.config["scaling_factor"] == 0.25
    for more in ({}, {"scale_factor": torch.tensor(0.0)}):
        with pytest.raises(NetworkError, match="scale_factor"):
            read(tmp_path, options, **more)


def test_the_published_configuration_on_the_meta_device() -> None:
    """CompVis's notebook prints 400.92 M parameters; the file has 1,827,378,153 bytes."""
    described = config_of(CIN_256, where="options")
    assert described.cautions == () and described.stage is not None
    assert described.stage["scaling_factor"] == 1.0
    with torch.device("meta"):
        network: Any = build_denoiser(described.config)
        vq: Any = importlib.import_module("diffusers").VQModel.from_config(described.stage)
    state = {name: tuple(tensor.shape) for name, tensor in vq.state_dict().items()}
    assert {ours: shape for _, ours, _, shape in tensor_names(described.stage)} == state
    classes = network.model.class_embedding.weight
    assert classes.shape == (1001, 512)
    unet = sum(p.numel() for p in network.parameters()) - classes.numel()
    assert unet == 400_920_579
    stage = sum(p.numel() for p in vq.parameters())
    # All of the file is these three in float32, but for names and the process's constants:
    # no averages beside them.
    held = 4 * (unet + classes.numel() + stage)
    assert 0 < 1_827_378_153 - held < 2e6


def stage_of(**changes: Any) -> dict[str, Any]:
    stage = latent_options()["model"]["params"]["first_stage_config"]["params"]
    return {**stage, "ddconfig": {**stage["ddconfig"], **changes}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tanh_out": True}, "tanh_out"),
        ({"use_linear_attn": True}, "use_linear_attn"),
        ({"attn_type": "linear"}, "attn_type 'linear'"),
        ({"resamp_with_conv": False}, "resamp_with_conv false"),
        ({"double_z": True}, "double_z"),
        ({"depth": 3}, "depth"),
        ({"ch_mult": [2, 4]}, "does not begin with 1"),
        ({"ch": 24}, "no multiple of 32"),
        ({"num_res_blocks": 10**9}, "1000000000 blocks"),
        ({"z_channels": 0}, "z_channels 0"),
        ({"ch": 32 * 10**12}, "ch 32000000000000"),
        ({"ch": 2**19, "ch_mult": [1, 4]}, "above 1048576"),
    ],
)
def test_a_stage_that_diffusers_does_not_have_is_told(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        vq_config(stage_of(**changes), scale=1.0)
    # The network is read all the same.
    described = config_of(latent_options(**changes), where="options")
    assert described.stage is None and reason in described.cautions[0]


def test_levels_attend_whose_size_is_named_and_no_other() -> None:
    """As upstream compares them: 16 pixels, then 8, and 8.5 or infinity is neither."""
    for named, expected in (
        ([8], ["", "Attn"]), ([8.0, 16], ["Attn", "Attn"]), ([8.5, math.inf], ["", ""]),
    ):  # fmt: skip
        found = vq_config(stage_of(attn_resolutions=named), scale=1.0)
        assert found["down_block_types"] == [f"{one}DownEncoderBlock2D" for one in expected]
        assert found["up_block_types"] == [f"{one}UpDecoderBlock2D" for one in expected[::-1]]


def test_a_stage_that_decodes_latents_as_they_are_is_told() -> None:
    """CompVis's `VQModel.decode` takes no nearest code; `VQModelInterface` and diffusers do."""
    options = latent_options()
    stage = options["model"]["params"]["first_stage_config"]
    stage["target"] = "ldm.models.autoencoder.VQModel"
    described = config_of(options, where="options")
    assert described.stage is None
    assert "latents of a VQModel, which is not converted" in described.cautions[0]


def test_more_codes_than_there_can_be_are_told_before_the_file_is_read() -> None:
    options = latent_options()
    options["model"]["params"]["first_stage_config"]["params"]["n_embed"] = 10**30
    described = config_of(options, where="options")
    assert described.stage is None and "n_embed 1000" in described.cautions[0]


@pytest.mark.parametrize("value", [None, "VQModelInterface", ["VQModelInterface"]])
@pytest.mark.parametrize("key", ["first_stage_config", "cond_stage_config"])
def test_a_stage_that_is_no_mapping_is_refused(key: str, value: Any) -> None:
    options = latent_options()
    params = options["model"]["params"]
    if (key, value) != ("cond_stage_config", None):  # that is a network without a condition
        with pytest.raises(NetworkError, match=f"{key}, a .* and no mapping"):
            config_of({"model": {"params": params | {key: value}}}, where="options")
    params[key]["params"] = value
    if key == "cond_stage_config":
        with pytest.raises(NetworkError, match=f"{key}.params, a .* and no mapping"):
            config_of(options, where="options")
    else:
        described = config_of(options, where="options")
        assert described.stage is None
        assert "first_stage_config.params, a" in described.cautions[0]


def test_a_file_of_another_stage_is_refused(tmp_path: Path) -> None:
    write_latent_diffusion(tmp_path / "model.ckpt", latent_options())
    other = latent_options(ch_mult=[1, 3])
    with pytest.raises(NetworkError, match="first_stage_config") as caught:
        read_published(tmp_path / "model.ckpt", other, where="options")
    assert len(render(caught.value).splitlines()) <= 6


def test_a_file_without_its_stage_is_read_with_a_caution(tmp_path: Path) -> None:
    options = latent_options()
    network, _ = write_latent_diffusion(tmp_path / "model.ckpt", options)
    inner = network.model.state_dict()
    content = {f"model.diffusion_model.{n}": t for n, t in inner.items() if "class_" not in n}
    content["cond_stage_model.embedding.weight"] = inner["class_embedding.weight"]
    torch.save({"state_dict": content}, tmp_path / "model.ckpt")
    found = read_published(tmp_path / "model.ckpt", options, where="options")
    assert found.stage is None
    [caution] = found.cautions
    assert "not in this file" in caution and "`network.decoder`" in caution
