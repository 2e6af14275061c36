from __future__ import annotations

import io

import pytest
from rich.console import Console

from skiptune.sampling.norms import NormRatios
from skiptune.sampling.skips import Skip
from skiptune.views.network import heat_table, path_text, skip_table
from tests.views.printed import printed

SKIPS = [
    Skip("32x32_block2", 10, 32, 1024, 1024, 32, mixed=True),
    Skip("8x8_block1", 4, 8, 32, 32, 16, mixed=False),
]


def page(width: int) -> str:
    return printed(skip_table(SKIPS, searched={"8x8_block1"}), width=width)


def test_every_address_stands_whole_in_80_columns() -> None:
    for skip, searched in zip(SKIPS, ("no", "yes"), strict=True):
        row = next(line for line in page(80).splitlines() if skip.address in line)
        assert f"{skip.main_channels} + {skip.skip_channels}" in row
        assert path_text(skip) in row
        assert row.split()[-1] == searched
    assert max(map(len, page(80).splitlines())) <= 80


def heat(norms: NormRatios, *, colours: bool) -> str:
    console = Console(
        file=io.StringIO(),
        width=80,
        force_terminal=colours,
        color_system="truecolor" if colours else None,
    )
    console.print(heat_table(norms))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_heat_table_has_a_row_per_skip_and_a_column_per_level() -> None:
    norms = NormRatios(
        addresses=("8x8_block1", "32x32_block2"),
        sigmas=(80.0, 1.234567, 0.002),
        ratios=((0.25, 1.0, 4.0), (0.5, float("inf"), 123.456)),
        images=16,
    )
    lines = heat(norms, colours=False).splitlines()
    assert lines[0].split() == ["skip,", "by", "sigma", "80", "1.23", "0.002"]
    assert lines[2].split() == ["8x8_block1", "0.25", "1.00", "4.00"]
    assert lines[3].split() == ["32x32_block2", "0.50", "not", "finite", "123.46"]


def test_heat_is_blue_for_weak_skips_and_red_for_strong_ones() -> None:
    norms = NormRatios(("8x8_block1",), (3.0, 2.0, 1.0), ((0.1, 1.0, 9.0),), 16)
    row = next(line for line in heat(norms, colours=True).splitlines() if "block1" in line)
    blue, grey, red = "48;2;59;76;192", "48;2;221;221;221", "48;2;180;4;38"
    assert row.index(blue) < row.index(" 0.10") < row.index(grey) < row.index(" 1.00")
    assert row.index(" 1.00") < row.index(red) < row.index(" 9.00")
    assert "\x1b" not in heat(norms, colours=False)


@pytest.mark.parametrize("count", [1, 8, 9, 18, 100])
def test_a_heat_table_of_any_grid_fits_80_columns_with_both_ends(count: int) -> None:
    sigmas = tuple(float(count - place) for place in range(count))
    text = heat(NormRatios(("32x32_block10",), sigmas, (sigmas,), 16), colours=False)
    assert max(map(len, text.splitlines())) <= 80
    shown = [float(word) for word in text.splitlines()[0].split()[3:]]
    assert shown == sorted(set(shown), reverse=True)
    assert len(shown) == min(count, 8)
    assert (shown[0], shown[-1]) == (float(count), 1.0)


def test_without_normalisation_a_scale_acts_on_both_branches() -> None:
    assert path_text(Skip("64x64_block0", 9, 64, 128, 128, 0, mixed=True)) == "both branches"
