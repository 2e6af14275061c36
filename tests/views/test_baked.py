from __future__ import annotations

from dataclasses import replace

import torch

from skiptune.sampling.deviation import Deviation, Deviations
from skiptune.sampling.fold import Edit, Fold, FoldedBlock
from skiptune.views.baked import baked_view
from tests.views.printed import printed

EDIT = Edit("key", 1, 0, torch.ones(2, dtype=torch.float64))
FOUND = Deviations(
    whole=Deviation(2e-4, 0.005),
    exact=Deviation(3e-7, 2e-5),
    blocks={"8x8_block1": Deviation(1e-4, 0.004)},
    levels=0.081,
    moved=16.2,
    images=4,
    evaluations=6,
)


def shown(left: bool, found: Deviations = FOUND) -> str:
    blocks = (
        FoldedBlock("8x8_block0", False, False, {"both": 0.75, "residual": 1.1}, (EDIT,)),
        FoldedBlock("8x8_block1", True, left, {"both": 0.9}, ()),
    )
    return printed(*baked_view(Fold(blocks), found))


def test_every_block_has_a_row_and_the_near_ones_their_deviation() -> None:
    text = shown(left=False)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "8x8_block0 0.750 exactly" in lines
    assert "residual 1.100 exactly" in lines
    assert "8x8_block1 0.900 nearly, mixed group 1.0e-04 0.4 %" in lines
    assert "all exact ones 3.0e-07 0.002 %" in lines
    assert "all 2.0e-04 0.5 %" in lines
    words = " ".join(text.split())
    assert "0.5 % of what the scales change" in words
    assert "0.081 grey levels of 255, where the scales move them by 16" in words
    assert "Left at 1" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_blocks_left_at_1_are_named() -> None:
    text = " ".join(shown(left=True).split())
    assert "8x8_block1 0.900 left at 1 1.0e-04" in text
    assert "Left at 1: 8x8_block1. `--mixed fold`" in text


def test_rounding_is_told_where_the_file_is_of_half_precision() -> None:
    assert "Rounding" not in shown(left=False)
    text = " ".join(shown(False, replace(FOUND, rounded=("float16",))).split())
    assert "by 16. Rounding to the file's float16 is part of it." in text
