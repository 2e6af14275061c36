"""The training program: order of the images, learning rate, loss, exact resume, export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.networks import EDMPrecond, build
from training import diffusion, export
from training.diffusion import FASHION, Run, batch_indices, edm_loss, learning_rate

TINY: dict[str, Any] = {**FASHION, "model_channels": 4, "channel_mult": [1, 1], "num_blocks": 1}


@settings(max_examples=50, deadline=None)
@given(size=st.integers(2, 50), count=st.integers(1, 60), seed=st.integers(0, 1000))
def test_every_epoch_shows_every_image_once_in_another_order(
    size: int, count: int, seed: int
) -> None:
    whole = batch_indices(seed=seed, first=0, count=3 * size, size=size).tolist()
    for epoch in range(3):
        assert sorted(whole[epoch * size : (epoch + 1) * size]) == list(range(size))
    count = min(count, 2 * size)
    part = batch_indices(seed=seed, first=size // 2, count=count, size=size).tolist()
    assert part == whole[size // 2 : size // 2 + count]


def test_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    def rate(images: int, **decay: int) -> float:
        return learning_rate(Run(images=images, **decay), peak=2.0, warmup=100)

    assert rate(49) == pytest.approx(1.0)
    assert rate(99) == rate(10_000) == pytest.approx(2.0)
    decay = {"decay_from": 1000, "decay_to": 3000}
    assert rate(1000, **decay) == pytest.approx(2.0)
    assert rate(2500, **decay) == pytest.approx(0.5)
    assert rate(3000, **decay) == rate(3500, **decay) == 0.0


def test_loss_is_one_on_average_for_a_network_that_predicts_zero() -> None:
    """EDM's weight makes the target of the inner network a signal of unit variance."""
    torch.manual_seed(0)
    network = build({**TINY, "sigma_data": 0.66})

    def silent(x: Tensor, *_: Tensor) -> Tensor:
        return torch.zeros_like(x)

    network.model.forward = silent  # type: ignore[assignment]
    images = 0.66 * torch.randn(400, 1, 32, 32)
    losses = edm_loss(network, images, torch.zeros(400, 10))
    assert losses.shape == (400,)
    assert float(losses.mean()) == pytest.approx(1.0, abs=0.01)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program on a tiny network and data set: call it with a folder and options."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 1, 32, 32), np.uint8)
    labels = rng.integers(0, 10, 24)
    monkeypatch.setattr(diffusion, "FASHION", TINY)
    monkeypatch.setattr(diffusion, "load", lambda _: (images, labels))

    def call(out: Path, *options: str) -> dict[str, Any]:
        words = ["diffusion", "--data", "unused", "--out", str(out), "--batch", "8"]
        words += ["--warmup", "16", "--dropout", "0.1", *options]
        monkeypatch.setattr(sys, "argv", words)
        diffusion.main()
        state: dict[str, Any] = torch.load(out / "checkpoint.pt", weights_only=True)
        return state

    return call


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_a_resumed_run_is_bit_identical(program: Any, tmp_path: Path) -> None:
    whole = program(tmp_path / "whole", "--images", "48")
    program(tmp_path / "parts", "--images", "24")
    parts = program(tmp_path / "parts", "--images", "48")
    assert parts["run"]["step"] == whole["run"]["step"] == 6
    for kind in ("network", "average"):
        assert all(torch.equal(whole[kind][k], parts[kind][k]) for k in whole[kind])
    changed = [
        k for k in whole["network"] if not torch.equal(whole["network"][k], whole["average"][k])
    ]
    assert len(changed) > 50


def test_decay_ends_the_run_and_survives_a_resume(program: Any, tmp_path: Path) -> None:
    program(tmp_path, "--images", "16")
    state = program(tmp_path, "--decay-to", "32", "--minutes", "1e-9")
    assert (state["run"]["decay_from"], state["run"]["images"]) == (16, 24)
    state = program(tmp_path, "--decay-to", "32")
    assert (state["run"]["decay_from"], state["run"]["images"]) == (16, 32)


def test_unusable_gradients_leave_the_weights_alone(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = program(tmp_path, "--images", "8")

    def broken(network: EDMPrecond, images: Tensor, labels: Tensor) -> Tensor:
        return edm_loss(network, images, labels) * float("nan")

    monkeypatch.setattr(diffusion, "edm_loss", broken)
    after = program(tmp_path, "--images", "16")
    assert after["run"]["skipped"] == 1
    assert all(torch.equal(before["network"][k], after["network"][k]) for k in before["network"])
    with pytest.raises(SystemExit, match="in a row"):
        program(tmp_path, "--images", "100000")


def test_export_is_a_checkpoint_in_half_precision(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = program(tmp_path, "--images", "16", "--snapshots", "8")
    assert (tmp_path / "snapshot-8.safetensors").is_file()
    out = tmp_path / "out.safetensors"
    monkeypatch.setattr(sys, "argv", ["export", str(tmp_path / "checkpoint.pt"), str(out)])
    export.main()
    checkpoint = load_checkpoint(out)
    assert checkpoint.config == state["config"]
    for name, value in checkpoint.network.state_dict().items():
        assert torch.equal(value, state["average"][name].half().float())
