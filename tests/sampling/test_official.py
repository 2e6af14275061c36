"""NVIDIA's files: the configuration and the weights that were written are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from skiptune.canonical import file_digest
from skiptune.errors import NetworkError
from skiptune.sampling.networks import EDMPrecond, build
from skiptune.sampling.official import Official, read_official
from tests.sampling.official_files import (
    Persistent,
    edm2,
    official,
    training_dict,
    write_official,
)

NCSNPP = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
    "augment_dim": 9,
}


def arguments(config: dict[str, Any]) -> dict[str, Any]:
    """What EDM's preconditioner would be made with for a configuration of ours."""
    made_with = {key: value for key, value in config.items() if key != "precond"}
    return {**made_with, "use_fp16": False, "model_type": "SongUNet"}


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("training", [True, False])
def test_ddpmpp(
    tiny_network: EDMPrecond,
    tiny_config: dict[str, Any],
    tmp_path: Path,
    training: bool,
    protocol: int,
) -> None:
    network = official(tiny_network, arguments(tiny_config))
    content = training_dict(network) if training else network
    path = write_official(tmp_path / "network.pkl", content, protocol)
    read = read_official(path)
    assert read.config == tiny_config
    assert (read.precond, read.class_name) == ("edm", "EDMPrecond(SongUNet)")
    assert read.source == ("ema" if training else "network")
    assert read.sha256 == file_digest(path)
    assert read.dtypes == ("float32",)
    own = tiny_network.state_dict()
    assert list(read.tensors) == list(own)
    for name, tensor in own.items():
        assert torch.equal(read.tensors[name], tensor.cpu())


def test_ncsnpp_builds_from_its_own_configuration(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    config = {**tiny_config, **NCSNPP}
    network = build(config)
    path = write_official(tmp_path / "n.pkl", training_dict(official(network, arguments(config))))
    read = read_official(path)
    assert read.config == config
    build(read.config).load_state_dict(read.tensors)


def test_edm2_keeps_its_float16_and_its_names(tmp_path: Path) -> None:
    made_with = {
        "img_resolution": 64,
        "img_channels": 3,
        "label_dim": 1000,
        "model_channels": 16,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "channel_mult_noise": None,
        "use_fp16": True,
        "dropout": np.float64(0.1),
    }
    weight = torch.randn(4, 2, 3, 3).half()
    network = edm2(weight, made_with)
    path = write_official(tmp_path / "edm2.pkl", training_dict(network, easy=True))
    read = read_official(path)
    assert read.config == {
        "precond": "edm2",
        "sigma_data": 0.5,
        "img_resolution": 64,
        "img_channels": 3,
        "label_dim": 1000,
        "model_type": "UNet",
        "model_channels": 16,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "channel_mult_noise": None,
        "dropout": 0.1,
        "logvar_channels": 4,
    }
    assert json.loads(json.dumps(read.config)) == read.config
    # A buffer that is not saved stays out, as in a state dict.
    assert list(read.tensors) == [
        "unet.out_gain",
        "unet.enc.8x8_conv.weight",
        "logvar_fourier.freqs",
    ]
    assert torch.equal(read.tensors["unet.enc.8x8_conv.weight"], weight)
    assert read.dtypes == ("float16", "float32")
    assert read.class_name == "Precond(UNet)"


def simple(
    outer: dict[str, Any], inner: dict[str, Any], precond: str = "EDMPrecond", **state: Any
) -> Persistent:
    """A network of one weight, made with the given arguments."""
    parameters = {"weight": nn.Parameter(torch.ones(3), requires_grad=False)}
    model = Persistent("SongUNet", {"_parameters": parameters, "_init_kwargs": inner})
    return Persistent(precond, {"_modules": {"model": model}, "_init_kwargs": outer, **state})


SHAPE = {"img_resolution": 32, "img_channels": 3}


def read(content: Any, tmp_path: Path) -> Official:
    return read_official(write_official(tmp_path / "x.pkl", content))


@pytest.mark.parametrize(
    ("precond", "outer", "state", "expected"),
    [
        ("EDMPrecond", {"sigma_min": 0, "sigma_max": float("inf")}, {}, {"sigma_data": 0.5}),
        ("EDMPrecond", {"sigma_max": 80}, {}, {"sigma_data": 0.5, "sigma_max": 80}),
        ("EDMPrecond", {"sigma_data": 0.4}, {"sigma_data": 0.6}, {"sigma_data": 0.6}),
        ("VPPrecond", {"beta_d": 19.9}, {}, {"precond": "vp", "beta_d": 19.9}),
        ("VEPrecond", {"sigma_min": 0}, {}, {"precond": "ve", "sigma_min": 0}),
        ("iDDPMPrecond", {"C_1": 0.001}, {}, {"precond": "iddpm", "C_1": 0.001}),
    ],
)
def test_preconditioners(
    precond: str,
    outer: dict[str, Any],
    state: dict[str, Any],
    expected: dict[str, Any],
    tmp_path: Path,
) -> None:
    network = simple({**SHAPE, **outer}, {"dropout": 0.1}, precond, **state)
    config = read(network, tmp_path).config
    assert config == {"precond": "edm", **SHAPE, "label_dim": 0, "dropout": 0.1} | expected


@pytest.mark.parametrize(
    ("outer", "inner", "found"),
    [
        ({}, {}, "no img_resolution"),
        ({**SHAPE, "label_dim": 0.5}, {}, "no label_dim"),
        ({**SHAPE, "img_channels": True}, {}, "no img_channels"),
        (SHAPE, {"dropout": float("nan")}, "the number nan"),
        (SHAPE, {"dropout": 10**7}, "the number 10000000"),
        (SHAPE, {"channel_mult": [[[[1]]]]}, "nested"),
        (SHAPE, {"channel_mult": [1] * 1000}, "long list"),
        (SHAPE, {"dropout": "x" * 1000}, "text of 1,000 characters"),
        (SHAPE, {"dropout": np.ones(3)}, "array"),
        (SHAPE, {"dropout": b"x"}, "a bytes"),
        (SHAPE, {"precond": "vp"}, "precond of the model"),
        (SHAPE, {"a b": 1}, "among them a?b"),
        (SHAPE, {f"k{i}": 1 for i in range(70)}, "70 arguments"),
        (SHAPE, {"num_blocks": 4}, "4 and [1]"),
        (SHAPE, {"num_blocks": "x"}, "x and [1]"),
    ],
)
def test_arguments_that_are_none(
    outer: dict[str, Any], inner: dict[str, Any], found: str, tmp_path: Path
) -> None:
    with pytest.raises(NetworkError) as caught:
        read(simple(outer, inner), tmp_path)
    assert found in caught.value.problems[0].found


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, "a dict of nothing"),
        ([1], "something else"),
        ({"ema": None, "net": 1}, "a dict of ema, net"),
        (Persistent("Generator", {}), "a Generator"),
        (Persistent("EDMPrecond", {}), "a NoneType"),
        (simple(SHAPE, {}, _init_args=(32,)), "arguments without names"),
        (simple(SHAPE, {}, _buffers={"../x": torch.ones(1)}), "../x"),
        (simple(SHAPE, {}, _buffers={"x": 1}), "int where a tensor belongs"),
    ],
)
def test_other_content_is_refused(content: Any, found: str, tmp_path: Path) -> None:
    with pytest.raises(NetworkError) as caught:
        read(content, tmp_path)
    (problem,) = caught.value.problems
    assert found in problem.found
    assert "x.pkl" in problem.where
    assert caught.value.hint
