"""The series: what makes it another one, and what does not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skiptune.canonical import digest
from skiptune.errors import SpecError
from skiptune.sampling.checkpoint import Checkpoint, load_checkpoint
from skiptune.sampling.describe import describe
from skiptune.sampling.networks import EDMPrecond, build
from skiptune.sampling.setting import Churn, Setting


@pytest.fixture
def checkpoint(
    tiny_network: EDMPrecond, write_checkpoint: Callable[..., Path], tmp_path: Path
) -> Checkpoint:
    return load_checkpoint(write_checkpoint(tiny_network, tmp_path / "tiny.safetensors"))


def test_a_series_is_plain_data_that_survives_json(checkpoint: Checkpoint) -> None:
    series = describe(checkpoint, Setting())
    assert digest(json.loads(json.dumps(series, allow_nan=False))) == digest(series)
    assert Setting.from_json(series["setting"]) == Setting()
    assert series["network"]["sha256"] == checkpoint.sha256


def test_everything_that_changes_images_changes_the_series(checkpoint: Checkpoint) -> None:
    other = dataclasses.replace(checkpoint, sha256="0" * 64)
    settings = [
        Setting(),
        Setting(solver="heun"),
        Setting(steps=7),
        Setting(grid="logsnr"),
        Setting(sigma_min=0.003),
        Setting(sigma_max=79.0),
        Setting(exponent=5.0),
        Setting(guidance=1.5),
        Setting(epsilon_scale=1.01),
        Setting(labels=None),
        Setting(labels=0),
        Setting(solver="heun", churn=Churn(amount=1)),
        Setting(solver="heun", churn=Churn(amount=1, high=50)),
        Setting(noise="counter"),
    ]
    digests = {digest(describe(checkpoint, setting)) for setting in settings}
    digests.add(digest(describe(checkpoint, Setting(), microbatch=25)))
    digests.add(digest(describe(other, Setting())))
    assert len(digests) == len(settings) + 2


def test_where_a_file_lies_does_not_change_the_series(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    copied = tmp_path / "elsewhere.safetensors"
    copied.write_bytes(checkpoint.path.read_bytes())
    assert describe(load_checkpoint(copied), Setting()) == describe(checkpoint, Setting())


def test_a_network_without_classes_has_no_label_rule(
    tiny_config: dict[str, Any], write_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    config = {**tiny_config, "label_dim": 0}
    path = write_checkpoint(build(config), tmp_path / "plain.safetensors", config)
    assert describe(load_checkpoint(path), Setting())["labels"] is None


def test_unknown_modes_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(SpecError, match="float32"):
        describe(checkpoint, Setting(), mode="float8")


def test_a_series_says_where_the_noise_comes_from(checkpoint: Checkpoint) -> None:
    usual, counter = (describe(checkpoint, Setting(noise=noise)) for noise in ("edm", "counter"))
    # The words of every series stored so far.
    assert usual["seeds"] == {
        "rule": "one torch CPU generator per image, seed mod 2^32",
        "draws": ["latent float32", "label", "churn float64 per step"],
    }
    assert "noise" not in usual["setting"]
    assert counter["seeds"]["rule"].startswith("Philox4x32-10")
    assert counter["setting"]["noise"] == "counter"
