"""What a study keeps when it is resumed: its meaning, and rungs that schedules have entered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from skiptune.errors import StudyChangedError
from skiptune.search.spec import difference
from skiptune.storage import ledger
from skiptune.storage.database import Database
from skiptune.storage.records import Study

__all__ = ["check_unchanged"]


def check_unchanged(
    database: Database, row: Study, meaning: Mapping[str, Any], *, source: str
) -> None:
    """Refuse to go on with a study that means something else.

    Rungs may be added at the end. One that was added, and that a schedule has entered since, stays
    as it is: schedules are compared rung by rung, at equal images.

    Arguments:
        database: Where the study lives.
        row: The stored study.
        meaning: What the spec at hand means, from `study_meaning`.
        source: Name of the file the spec came from, for messages.

    Raises:
        StudyChangedError: Naming every field that differs.
    """
    rungs = row.meaning["search.rungs"], list(ledger.entered_rungs(database, row.id))
    problems = difference({**row.meaning, "search.rungs": max(rungs, key=len)}, meaning)
    if problems:
        raise StudyChangedError.of(
            [replace(p, where=f"{source}: {p.where}") for p in problems],
            hint=f"give the changed study a new name (`study:`), or go on with the stored one: "
            f"`skiptune status {row.name}`",
        )
