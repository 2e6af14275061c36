"""Noted launches: of which no worker is left, and which cannot be asked from here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skiptune.search.liveness import is_gone
from skiptune.storage import ledger
from skiptune.storage.database import Database
from skiptune.storage.records import Launch, Study

__all__ = ["Asked", "Standing", "described", "forget_over", "of_this_host", "standing_of"]

Asked = Callable[[Launch], bool | None]
"""Whether workers of a launch are left; None where nobody can say from here."""


@dataclass(frozen=True)
class Standing:
    """How the noted launches of a study stand.

    Arguments:
        over: No worker of these is left.
        unknown: Of these nothing is known here.
    """

    over: tuple[Launch, ...]
    unknown: tuple[Launch, ...]


def described(launch: Launch) -> str:
    """Return who has started what, where and when."""
    count = f"{launch.workers} worker{'' if launch.workers == 1 else 's'}"
    when = f"{launch.created:%Y-%m-%d %H:%M} UTC"
    return f"{launch.executor} {launch.job} on {launch.place}: {count}, {when}"


def of_this_host(launch: Launch) -> bool | None:
    """Answer for launches on this machine alone, from its list of processes."""
    return False if launch.executor == "local" and is_gone(launch.job) else None


def standing_of(database: Database, study: Study, asked: Asked) -> Standing:
    """Ask for every noted launch of a study.

    Once nothing is left to sample, workers leave by themselves: then a launch that cannot be asked
    is over too.
    """
    over, unknown = [], []
    for launch in ledger.launches(database, study.id):
        left = asked(launch)
        if left is None:
            unknown.append(launch)
        elif not left:
            over.append(launch)
    if unknown and _is_done(database, study):
        return Standing((*over, *unknown), ())
    return Standing(tuple(over), tuple(unknown))


def forget_over(database: Database, study: Study, asked: Asked) -> int:
    """Remove the notes of launches that are over; return how many."""
    over = standing_of(database, study, asked).over
    return sum(ledger.forget_launch(database, launch) for launch in over)


def _is_done(database: Database, study: Study) -> bool:
    if study.state == "stopped":
        return True
    return study.state == "complete" and not ledger.open_rungs(database, study.id)
