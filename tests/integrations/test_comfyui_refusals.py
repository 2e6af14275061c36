"""What the node pack refuses: models, calls and guiders."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from integrations.comfyui.nodes import ModelError, apply
from integrations.comfyui.patch import SkipPatch, SkipPatchError
from integrations.comfyui.tuned_file import read
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import find_skips
from tests.integrations import comfyui_like as like
from tests.integrations.both_ways import (
    NAMES,
    SIGMAS,
    labels,
    noise,
    patched,
    theirs,
)
from tests.integrations.handed_over import schedules, write_tuned
from tests.sampling.families import FAMILIES, network_of

# What is refused.


@pytest.mark.parametrize("name", ["edm2", "uvit", "ddpmpp-edm"])
def test_files_of_other_families_are_refused(name: str, tmp_path: Path) -> None:
    network = network_of(FAMILIES[name])
    address = find_skips(network)[0].address
    write_tuned(tmp_path / "t.json", network, Schedule.uniform({address: 0.5}))
    with pytest.raises(ModelError, match=f"found {address}: tiny is of another kind"):
        apply(like.Patcher(like.Model(network_of(FAMILIES["ldm"]))), read(tmp_path / "t.json"))


def test_a_model_without_skips_is_refused(denoiser: Any, tmp_path: Path) -> None:
    write_tuned(tmp_path / "t.json", denoiser, schedules(NAMES)["static"])
    model = like.Patcher(SimpleNamespace(diffusion_model=like.Transformer()))
    with pytest.raises(ModelError, match="found Transformer, which has none: transformers such"):
        apply(model, read(tmp_path / "t.json"))


def test_a_block_of_other_channels_is_refused(denoiser: Any, tmp_path: Path) -> None:
    write_tuned(tmp_path / "t.json", denoiser, schedules(NAMES)["static"])
    tuned = read(tmp_path / "t.json")
    wider = network_of(FAMILIES["ldm"], channel_mult=[2, 2])
    for block in wider.model.output_blocks:
        block[0].channels = None
    model, _ = apply(like.Patcher(like.Model(wider)), tuned)
    with pytest.raises(SkipPatchError) as refused:
        theirs(model, noise())
    assert "output block 1: expected 64 + 32 channels (output_blocks.1)" in str(refused.value)
    assert "found 64 + 64 channels" in str(refused.value)
    # Where blocks say what they receive, as ComfyUI's do, it is refused before anything runs.
    for block in wider.model.output_blocks:
        block[0].channels = block[0].in_layers[0].num_channels
    with pytest.raises(ModelError, match=r"64 \+ 32 channels in output block 1 .*found 128"):
        apply(like.Patcher(like.Model(wider)), tuned)


def test_windows_on_a_flow_model_are_refused(denoiser: Any, tmp_path: Path) -> None:
    write_tuned(tmp_path / "t.json", denoiser, schedules(NAMES)["windowed"])
    model = like.Patcher(like.Model(denoiser))
    model.model.model_sampling = like.Levels([0.001, 1.0])
    with pytest.raises(ModelError, match="found a flow model, whose levels run from 0 to 1"):
        apply(model, read(tmp_path / "t.json"))


# What is not said cannot be guessed.


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"block": None}, "found an unnamed block None"),
        ({"block": ("middle", 0)}, "found middle block 0"),
        ({"block": ("output", 4)}, "expected output blocks 0 to 3 as in tiny"),
        ({"sigmas": None}, "sigmas: expected the noise level"),
        ({"cond_or_uncond": None}, "expected which prompts are in the batch"),
        ({"cond_or_uncond": [2, 0]}, "found number 2"),
        ({"cond_or_uncond": [1, 0, 0, 1]}, "found a batch of 6"),
        ({"sigmas": torch.tensor([1.0, 5.0])}, "noise levels (2), found a batch of 6"),
    ],
)
def test_calls_that_hide_what_they_do_are_refused(
    denoiser: Any, tmp_path: Path, options: dict[str, Any], problem: str
) -> None:
    schedule, setting = schedules(NAMES)["cond"], Setting(guidance=2.0)
    path = write_tuned(tmp_path / "t.json", denoiser, schedule, setting=setting)
    row = find_skips(denoiser)[0]
    h, hsp = torch.ones(6, row.main_channels, 1, 1), torch.ones(6, row.skip_channels, 1, 1)
    said = {"block": ("output", 0), "sigmas": torch.ones(3) * 5, "cond_or_uncond": [1, 0]}
    patch = SkipPatch(read(path))
    patch(h, hsp, said)
    with pytest.raises(SkipPatchError) as refused:
        patch(h, hsp, {**said, **options})
    assert problem in str(refused.value)


def test_guiders_of_other_prompts_are_refused(denoiser: Any, tmp_path: Path) -> None:
    schedule, setting = schedules(NAMES)["cond"], Setting(guidance=2.0)
    model = patched(denoiser, tmp_path / "t.json", schedule, setting=setting)
    guider = like.Guider(model, labels(), cfg=2.0)
    guider.original_conds["middle"] = []
    with pytest.raises(SkipPatchError, match="found middle, negative, positive"):
        guider.sample(noise(), SIGMAS)
