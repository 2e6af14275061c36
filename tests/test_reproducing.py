"""`skiptune score TUNED.json --confirmed`: what is asked for first, and what is said of rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.search import reproduction
from skiptune.search.reproduction import Reproduced
from tests.command_line import Outcome
from tests.test_sampling import write

Command = Callable[..., Outcome]

CONFIRMED = {"confirm B": {"first": 2_150_000, "images": 500}}


def told(study_folder: Path, tiny_study: ModuleType, **changes: Any) -> Path:
    """A tuned.json beside its network, whose baseline scored 5."""
    measure = {
        "metric": "FD",
        "extractor": tiny_study.EXTRACTOR,
        "extractor_sha256": "0" * 64,
        **changes.pop("measure", {}),
    }
    network = load_checkpoint(study_folder / "tiny.safetensors")
    return write(network, study_folder / "tuned.json", 0.4, measure=measure, **changes)


def test_a_file_that_is_not_confirmed_is_asked_for_nothing_more(
    command: Command, study_folder: Path, tiny_study: ModuleType
) -> None:
    for name, images, found in (
        ("search", 500, "none: not confirmed"),
        ("confirm B", 250, "250 images"),
    ):
        path = told(study_folder, tiny_study, seeds={name: {"first": 2_150_000, "images": images}})
        done = command("score", path, "--confirmed", "--checkpoint", "none.safetensors")
        assert done.code == 2 and done.out == ""
        assert f"error: {path}: seeds" in done.err and found in done.err
        assert "skiptune confirm tiny" in done.err and "--reference" not in done.err
        path.unlink()


def test_a_missing_reference_is_asked_for_by_its_name(
    command: Command, study_folder: Path, tiny_study: ModuleType
) -> None:
    named = {"reference": "mine", "reference_sha256": "1" * 64}
    for measure, expected in (({}, "was scored against\n"), (named, "was scored against, mine\n")):
        path = told(study_folder, tiny_study, seeds=CONFIRMED, measure=measure)
        done = command("score", path, "--confirmed")
        assert done.code == 2 and "error: --reference" in done.err
        assert expected in done.err
        path.unlink()


def test_what_is_said_depends_on_how_far_the_numbers_are(
    command: Command, study_folder: Path, tiny_study: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = told(study_folder, tiny_study, seeds=CONFIRMED)
    words = ("score", path, "--confirmed", "--reference", study_folder / "reference.npz")
    # A thousandth of the baseline's 5 is the line.
    for off, said, unsaid in (
        (0.0, "same bits", "number of threads"),
        (0.0049, "number of threads", "other numbers"),
        (0.0051, "other numbers, not other roundings", "same bits"),
        (-0.0051, "other numbers, not other roundings", "same bits"),
    ):
        rows = (Reproduced("tuned", 4.0, 4.0 + off),)
        monkeypatch.setattr(reproduction, "reproduced", lambda *_, rows=rows, **__: rows)
        page = command(*words)
        assert page.code == 0, page.err
        text = " ".join(page.out.split())
        assert said in text and unsaid not in text
        plain = json.loads(command(*words, "--json").out)
        assert plain["identical"] is (off == 0)
        assert plain["seeds"] == [2_150_000, 2_150_499]
        assert plain["scores"] == [{"name": "tuned", "stored": 4.0, "found": 4.0 + off}]
