"""Names of metrics, and what stands behind them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from skiptune.objectives.catalogue import CATALOGUE, resolved


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fd", ("fd", None)),
        ("fid", ("fd", "inception")),
        ("fd_dinov2", ("fd", "dinov2")),
        ("fd:efficientnet-lite0", ("fd", "efficientnet-lite0")),
        ("kid", ("kid", None)),
        ("fd:", ("fd:", None)),
        ("fdd", ("fdd", None)),
    ],
)
def test_what_a_name_stands_for(name: str, expected: tuple[str, str | None]) -> None:
    assert resolved(name) == expected


def test_every_metric_has_a_measure() -> None:
    from skiptune.objectives import metrics
    from skiptune.objectives.neighbours import NEIGHBOURS

    assert CATALOGUE.keys() == metrics._MEASURES.keys() | NEIGHBOURS.keys()
    assert {key for key, entry in CATALOGUE.items() if entry.blocks} == {"recall", "coverage"}


def test_it_is_read_without_numpy() -> None:
    program = "import sys, skiptune.objectives.catalogue; print('numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
