from __future__ import annotations

from skiptune.search.address_order import deepest_first


def test_low_resolutions_come_first_then_blocks() -> None:
    names = ["skip/16x16_block0", "skip/8x8_block10", "skip/8x8_block2"]
    assert deepest_first(names) == ["skip/8x8_block2", "skip/8x8_block10", "skip/16x16_block0"]
    assert deepest_first(["resolution/32", "resolution/8"]) == ["resolution/8", "resolution/32"]
    assert deepest_first(["top", "bottom"]) == ["bottom", "top"]


def test_names_of_one_part_stay_together() -> None:
    names = ["residual/8x8_block0", "shortcut/16x16_block0", "shortcut/8x8_block0"]
    assert deepest_first(names) == [
        "shortcut/8x8_block0",
        "shortcut/16x16_block0",
        "residual/8x8_block0",
    ]
