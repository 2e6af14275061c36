"""`skiptune plan`: what it prints, that it writes nothing, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.command_line import write_spec


@pytest.fixture
def spec(tiny_study: ModuleType, made_up_folder: Path) -> Path:
    """The tiny study as a file; its images are made up."""
    changes = {"search__evaluations": 3, "space__kind": "uniform"}
    return write_spec(tiny_study, made_up_folder, **changes)


def test_it_tells_parts_and_hours_and_writes_nothing(
    command: Callable[..., Any], spec: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    shown = command("plan", spec, "--workers", "4")
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("hint: ")) <= 80
    # Baseline 500, three at 250, one of them to 500; 3 and 2 times 250 confirm.
    for name, images in (("baseline", 500), ("rung 250", 750), ("rung 500", 250),
                         ("confirm A", 750), ("confirm B", 500), ("together", 2750)):  # fmt: skip
        evaluations = f"{3 * images:,}"
        assert re.search(rf"^{name} +\d? +{images:,} +{evaluations} ", shown.out, re.MULTILINE)
    assert "with 4 workers" in shown.out
    assert "not known" in shown.out
    assert f"hint: learn it from a pilot: skiptune plan {spec} --pilot 250" in shown.out
    plain = json.loads(command("plan", spec, "--workers", "4", "--json").out)
    checked = json.loads(command("check", spec, "--json").out)
    assert (plain["images"], plain["evaluations"]) == (checked["images"], checked["evaluations"])
    assert plain["hours"] == pytest.approx(plain["device_hours"] / 4)
    assert plain["smallest_gain"] is None
    assert sorted(tmp_path.rglob("*")) == before


def test_a_pilot_tells_the_smallest_gain(
    command: Callable[..., Any], spec: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    words = ("plan", spec, "-s", "confirm.images=500", "--pilot")
    shown = command(*words, "250")
    assert shown.code == 0, shown.err
    found = re.search(r"proves with 90 % probability: +([0-9.]+) +%", shown.out.replace("\n", " "))
    assert found is not None, shown.out
    plain = json.loads(command(*words, "250", "--json").out)
    assert 100 * plain["smallest_gain"] == pytest.approx(float(found[1]), rel=0.06)
    assert "pilot of 250 images" in shown.out.replace("\n", " ")
    assert sorted(tmp_path.rglob("*")) == before
    # What was changed on the command line is part of every command that can be pasted.
    if "hint:" in shown.out:
        assert "-s confirm.images=500" in shown.out

    refused = command(*words, "300")
    assert refused.code == 2
    assert "whole chunks of 250 images, at least 250" in refused.err
