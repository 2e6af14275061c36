from __future__ import annotations

import pytest

from skiptune.sampling.schedule import BRANCHES, Schedule, Term
from skiptune.views.scales import scale_table
from tests.views.printed import printed


def text(schedule: Schedule) -> list[str]:
    shown = printed(scale_table(schedule, addresses=["8x8_block0", "16x16_block1"]))
    return [" ".join(line.split()) for line in shown.splitlines() if line.strip()]


def test_columns_that_say_nothing_are_left_out() -> None:
    lines = text(Schedule.uniform({"8x8_block0": 0.75}))
    assert lines[0] == "skip scale change from 1"
    assert "8x8_block0 0.750" in lines[-2]
    assert "16x16_block1 1 untouched" in lines[-1]
    lines = text(Schedule([Term("8x8_block0", 0.75, 0.5, 2.0)]))
    assert lines[0].endswith("acts at sigma")
    assert "0.5 to 2" in lines[-2]


@pytest.mark.parametrize("branches", BRANCHES)
def test_the_branch_is_shown_where_it_is_one_alone(branches: str) -> None:
    lines = text(Schedule.uniform({"8x8_block0": 0.75}, branches=branches))
    assert lines[0].endswith("branch") == (branches != "both")
    assert (branches in lines[-2].split()) == (branches != "both")


def test_the_part_is_shown_where_one_is_scaled_alone() -> None:
    terms = [Term("8x8_block0", 0.75, part="residual"), Term("8x8_block0", 0.9, part="shortcut")]
    lines = text(Schedule(terms))
    assert lines[0] == "skip scale change from 1 part of the block"
    assert [line.split()[:2] for line in lines[-3:-1]] == [
        ["8x8_block0", "0.900"],
        ["8x8_block0", "0.750"],
    ]
    assert [line.split()[-1] for line in lines[-3:-1]] == ["shortcut", "residual"]


def test_skips_stand_in_the_order_of_the_decoder() -> None:
    scales = {"16x16_block0": 0.9, "8x8_block10": 1.1, "8x8_block2": 1.2}
    shown = printed(scale_table(Schedule.uniform(scales)))
    rows = [line.split()[0] for line in shown.splitlines() if "block" in line]
    assert rows == ["8x8_block2", "8x8_block10", "16x16_block0"]
