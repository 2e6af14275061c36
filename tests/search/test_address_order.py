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


def test_module_names_of_other_families_are_ordered_too() -> None:
    names = ["final_res_block", "ups.1.0", "ups.0.1", "up_blocks.10.resnets.0"]
    assert deepest_first(names) == ["ups.0.1", "ups.1.0", "up_blocks.10.resnets.0", names[0]]
    assert deepest_first(["output_blocks.10", "output_blocks.9"])[0] == "output_blocks.9"
