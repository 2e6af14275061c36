"""Networks in half precision: close to float32, another series, and never without being asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skiptune.canonical import digest
from skiptune.errors import NetworkError
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.describe import MODES, describe
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample_float
from skiptune.sampling.levels import usual_setting
from skiptune.sampling.numeric_mode import in_mode
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import decoder_blocks
from tests.sampling.families import FAMILIES, OfFamily

# Digits of the type: 11 and 8 bits.
ROUNDED = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("mode", ROUNDED)
class TestModes(OfFamily):
    def test_blocks_compute_in_the_mode_and_scales_act_as_in_float32(
        self, mode: str, tmp_path: Path
    ) -> None:
        path = self.family.write(self.network, tmp_path, {})
        with scaled(self.network, self.schedule):
            expected = self.run(self.network)
        checkpoint = self.family.load(path, self.network)
        state = {key: value.clone() for key, value in checkpoint.network.named_buffers()}
        half = in_mode(checkpoint, mode)
        seen: list[Tensor] = []

        def look(module: nn.Module, args: tuple[Any, ...]) -> None:
            seen.append(args[0])

        untouched = self.run(half.network)
        with scaled(half.network, self.schedule):
            for block in decoder_blocks(half.network).values():
                block.register_forward_pre_hook(look)
            found = self.run(half.network)
        dtype = getattr(torch, mode)
        assert [tensor.dtype for tensor in seen] == [dtype] * 4
        assert (found.dtype, half.dtype) == (torch.float32, mode)
        off = float((found - expected).abs().max() / expected.abs().max())
        assert 0 < off < 40 * ROUNDED[mode]
        change = float((found - untouched).abs().max() / expected.abs().max())
        assert change > 4 * off
        # Noise levels and what is computed of them stay as they were.
        for key, value in half.network.named_buffers():
            if key.endswith(("u", "trained", "freqs", "phases", "hidden")):
                assert torch.equal(value, state[key])

    def test_images_are_made(self, mode: str, tmp_path: Path) -> None:
        path = self.family.write(self.network, tmp_path, {})
        setting = dataclasses.replace(usual_setting(self.network), solver="euler", steps=3)
        checkpoint = self.family.load(path, self.network)
        expected = sample_float(checkpoint.network, setting, range(2))
        found = sample_float(in_mode(checkpoint, mode).network, setting, range(2))
        assert bool(found.isfinite().all())
        off = float((found - expected).abs().max() / expected.abs().max())
        assert 0 < off < 100 * ROUNDED[mode]


def test_the_mode_is_part_of_the_series() -> None:
    checkpoint = load_checkpoint("fashion")
    made = [describe(in_mode(load_checkpoint("fashion"), mode), Setting()) for mode in MODES]
    assert [series["mode"] for series in made] == ["float32", "float16", "bfloat16"]
    assert len({digest(series) for series in made}) == 3
    assert made[0] == describe(checkpoint, Setting())
    assert in_mode(checkpoint, "float32") is checkpoint


def test_what_cannot_be_computed_in_is_refused() -> None:
    checkpoint = load_checkpoint("fashion")
    with pytest.raises(NetworkError, match=r"network\.dtype: expected one of float32, float16"):
        in_mode(checkpoint, "float8")
    half = in_mode(checkpoint, "float16")
    with pytest.raises(NetworkError, match="float16, then bfloat16"):
        in_mode(half, "bfloat16")
    foreign = dataclasses.replace(
        load_checkpoint("fashion"), config={"model_type": "LucidrainsUnet"}
    )
    with pytest.raises(NetworkError, match="in which alone this network computes"):
        in_mode(foreign, "bfloat16")
