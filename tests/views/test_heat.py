"""Colours of numbers: their ends, and that what is written on them can be read."""

from __future__ import annotations

import pytest

from skiptune.views.heat import EVEN, HIGH, LOW, heat, heat_colours, luminance


def test_the_ends_and_the_middle() -> None:
    assert [heat_colours(share)[0] for share in (-1, -2, 0, 1, 5)] == [LOW, LOW, EVEN, HIGH, HIGH]
    assert luminance((255, 255, 255)) == pytest.approx(1)
    assert luminance((0, 0, 0)) == 0


@pytest.mark.parametrize("tenth", range(-100, 101))
def test_what_is_written_can_be_read(tenth: int) -> None:
    paper, ink = heat_colours(tenth / 100)
    lights = sorted((luminance(paper), luminance(ink)))
    assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5


def test_text_is_black_or_white() -> None:
    style = heat("1.0", 1.0).style
    assert getattr(style, "color", None) is not None
    assert heat("1.0", 0.0).plain == "1.0"
