"""What a prefix cache would save, and that both searches are studies that can be."""

from __future__ import annotations

import pytest

from bench.prefix_cache import saved, window_spec
from skiptune.search.study import check_study


def test_what_lies_before_a_window_is_saved() -> None:
    proposals = [{"window/first": 3, "skip/a": 1.1}, {"window/first": 0, "skip/a": 0.9}]
    assert saved(proposals, 6) == pytest.approx(0.25)
    assert saved([{"skip/a": 1.1}], 6) == 0


@pytest.mark.parametrize("windowed", [False, True])
def test_the_searches_differ_in_the_window_alone(windowed: bool) -> None:
    _, _, space = check_study(window_spec(windowed=windowed, proposals=3, seed=1))
    names = set(space.distributions())
    assert len([name for name in names if name.startswith("skip/")]) == 12
    assert {name for name in names if name.startswith("window/")} == (
        {"window/first", "window/length"} if windowed else set()
    )
