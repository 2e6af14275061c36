from __future__ import annotations

import io

from rich.console import Console

from skiptune.sampling.skips import Skip
from skiptune.views.network import path_text, skip_table

SKIPS = [
    Skip("32x32_block2", 10, 32, 1024, 1024, 32, mixed=True),
    Skip("8x8_block1", 4, 8, 32, 32, 16, mixed=False),
]


def page(width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(skip_table(SKIPS, searched={"8x8_block1"}))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_address_stands_whole_in_80_columns() -> None:
    for skip, searched in zip(SKIPS, ("no", "yes"), strict=True):
        row = next(line for line in page(80).splitlines() if skip.address in line)
        assert f"{skip.main_channels} + {skip.skip_channels}" in row
        assert path_text(skip) in row
        assert row.split()[-1] == searched
    assert max(map(len, page(80).splitlines())) <= 80
