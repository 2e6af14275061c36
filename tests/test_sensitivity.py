"""`skiptune sensitivity`: what it prints, that it is computed once, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from skiptune.search.study import open_study
from skiptune.storage.database import open_database
from skiptune.storage.ledger import require_study, spending


@pytest.fixture
def url(study_folder: Path, tiny_study: ModuleType) -> str:
    """The database of the tiny study, entered and not begun."""
    where = f"sqlite:///{study_folder / 'tiny.db'}"
    spec = tiny_study.spec(study_folder, search__rungs=[500], space__intervals=3)
    open_study(spec, storage=where).database.close()
    return where


def seconds_spent(url: str) -> float:
    """Seconds that were spent on chunks: more after any other one."""
    with open_database(url) as database:
        return spending(database, require_study(database, "tiny").id).seconds


def test_it_prints_a_map_and_reads_it_the_second_time(
    command: Callable[..., Any], url: str
) -> None:
    first = command("sensitivity", "tiny", "--storage", url, "--json")
    assert first.code == 0, first.err
    found = json.loads(first.out)
    assert found["of"] == "baseline" and found["blocks"] == 2
    assert len(found["skips"]) == len({row["address"] for row in found["skips"]})
    for row in found["skips"]:
        assert sum(row["slopes"]) == pytest.approx(row["slope"], rel=1e-4, abs=1e-9)
        assert len(row["slopes"]) == len(found["levels"]) == 3
        # Each interval holds one level.
        assert row["interval_slopes"] == pytest.approx(row["slopes"])
        assert row["interval_errors"] == pytest.approx(row["standard_errors"])
    ends = [(one["low"], one["high"]) for one in found["intervals"]]
    assert ends[0][1] is None and ends[-1][0] == 0
    for (low, high), level in zip(ends, found["levels"], strict=True):
        assert low <= level and (high is None or level < high)
    before = seconds_spent(url)
    again = command("sensitivity", "tiny", "--storage", url)
    assert again.code == 0
    assert seconds_spent(url) == before > 0
    for row in found["skips"]:
        assert row["address"] in again.out
    assert "where a scale is 10% larger" in again.err
    assert "skip, by interval" in again.out

    unknown = command("sensitivity", "tiny", "--of", "99", "--storage", url)
    assert unknown.code == 2
    assert "`baseline`, `best`, or the number" in unknown.err


def test_a_study_without_slopes_is_refused_before_an_image_is_sampled(
    command: Callable[..., Any], study_folder: Path, tiny_study: ModuleType
) -> None:
    where = f"sqlite:///{study_folder / 'one.db'}"
    spec = tiny_study.spec(study_folder, search__rungs=[250])
    open_study(spec, storage=where).database.close()
    refused = command("sensitivity", "tiny", "--storage", where)
    assert refused.code == 2
    assert "two blocks with an error between them" in refused.err
    with open_database(where) as database:
        assert spending(database, require_study(database, "tiny").id).images == 0


def test_an_unknown_study_is_refused(command: Callable[..., Any], url: str) -> None:
    refused = command("sensitivity", "tinny", "--storage", url)
    assert refused.code == 2
    assert "tinny" in refused.err
