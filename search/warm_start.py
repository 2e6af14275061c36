"""Warm starts: the best schedules of earlier studies are the first proposals of a new one.

What `search.warm_start` names is resolved once, when the study is created, and kept with it: what
becomes of the other study or file later changes nothing. A name that is added when the study is
resumed is resolved then, and what it gives is proposed next. Each start is proposed once, because
a schedule that has an evaluation is not proposed again.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from skiptune.errors import Problem, SpecError
from skiptune.sampling.schedule import Schedule
from skiptune.search.hand_made import load_start
from skiptune.search.mapping import carried
from skiptune.search.overview import confirms, leaders
from skiptune.search.result import WIN
from skiptune.search.space import Space
from skiptune.search.start_names import is_tuned_file
from skiptune.search.tuned import load
from skiptune.storage import ledger
from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.records import Evaluation, Score

if TYPE_CHECKING:
    from skiptune.search.study import OpenStudy

__all__ = [
    "MOST",
    "SPENT",
    "Here",
    "Start",
    "begun",
    "best_start",
    "kept",
    "next_start",
    "resolved",
    "spent_by",
    "starts_of",
]

SPENT: Final = "spent"
"""Where a study's row keeps the last block of seeds that what it begins from has spent."""

MOST: Final = 3
"""Schedules that are taken of one study: those behind the best are rarely better elsewhere."""

HINT = (
    "list the studies with `skiptune status`; "
    "a file comes from `skiptune export STUDY -o tuned.json`, or from `skiptune import FILE`"
)


@dataclass(frozen=True)
class Here:
    """The study that is to begin.

    Arguments:
        study: Its name.
        space: What it searches.
        skips: Addresses of all skips of its network, deepest first.
        sha256: Of its checkpoint.
    """

    study: str
    space: Space
    skips: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class Start:
    """A schedule that is proposed before a sampler is asked.

    Arguments:
        source: The study or file as the spec names it.
        of: What it is there, e.g. ``proposal 7 of fashion, confirmed``.
        params: One value for each parameter of the space.
        notes: What was lost on the way into the space.
    """

    source: str
    of: str
    params: dict[str, float]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join((self.of, *self.notes))

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "notes": list(self.notes)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Start:
        """Read what `to_json` gave."""
        return cls(**{**values, "notes": tuple(values["notes"])})


@dataclass(frozen=True)
class _Found:
    """A schedule where it was found, with the skips of its network, deepest first."""

    of: str
    schedule: Schedule
    skips: tuple[str, ...]
    params: Mapping[str, float]


def resolved(
    named: Sequence[str], database: Database, here: Here, *, source: str = "spec"
) -> tuple[Start, ...]:
    """Return what the names of a spec stand for, best first within each name.

    Arguments:
        named: Names of studies in the same database, and paths of `tuned.json` files and of those
            that `skiptune import` has written.
        database: Where the studies are.
        here: The study that is to begin.
        source: Name of the file the spec came from, for messages.

    Raises:
        SpecError: With every problem at once: an unknown study, one without scores, one that is
            no better than its untouched network, a broken file, a schedule of which this space
            holds nothing.
    """
    starts: list[Start] = []
    problems: list[Problem] = []
    for place, name in enumerate(named):
        where = f"{source}: search.warm_start[{place}]"
        try:
            found = _of_file(name) if is_tuned_file(name) else _of_study(database, name, here)
        except SpecError as error:
            problems += [replace(p, where=f"{where}: {p.where or name}") for p in error.problems]
            continue
        fitting: list[Start] = []
        refused: list[Problem] = []
        for one in found:
            try:
                into = carried(
                    one.schedule,
                    skips=one.skips,
                    params=one.params,
                    space=here.space,
                    here=here.skips,
                )
            except SpecError as error:
                refused += [
                    replace(p, where=f"{where}: {one.of}: {p.where}") for p in error.problems
                ]
                continue
            if here.space.schedule(into.params).is_baseline:
                expected = "a schedule of which this space holds more than the untouched network"
                refused.append(Problem(f"{where}: {one.of}", expected, "; ".join(into.notes)))
                continue
            fitting.append(Start(name, one.of, into.params, into.notes))
        # One that fits is enough: a study's second best may scale other skips alone.
        problems += [] if fitting else refused[:1]
        starts += [s for s in fitting if s.params not in [other.params for other in starts]]
    if problems:
        raise SpecError.of(problems, hint=HINT)
    return tuple(starts)


def kept(
    named: Sequence[str],
    stored: Sequence[Mapping[str, Any]],
    database: Database,
    here: Here,
    *,
    source: str = "spec",
) -> list[dict[str, Any]]:
    """Return the starts of a study as plain data: those that are stored, and what is named anew.

    Where a name is taken out again, those of its starts that were proposed stay evaluations.

    Arguments:
        named: As for `resolved`.
        stored: What this function gave when the study was opened before.
        database: As for `resolved`.
        here: The study.
        source: As for `resolved`.

    Raises:
        SpecError: As for `resolved`, of the names that are new.
    """
    known = [dict(one) for one in stored if one["source"] in named]
    fresh = [name for name in named if name not in [one["source"] for one in known]]
    found = resolved(fresh, database, here, source=source) if fresh else ()
    there = [one["params"] for one in known]
    return [*known, *(start.to_json() for start in found if start.params not in there)]


def spent_by(named: Sequence[str], database: Database) -> int:
    """Return the last block of seeds that confirms of what is named have spent, 0 for none.

    A schedule that won on some images is not tested on them again. Blocks count from 1 on
    (`storage.seeds`); what a study began from counts with it.

    Arguments:
        named: As for `resolved`, which has accepted them.
        database: Where the studies are.
    """
    blocks = [0]
    for name in named:
        if is_tuned_file(name):
            if load_start(name) is None:
                blocks += [ledger.block_at(block.first) for block in load(name).seeds.values()]
            continue
        row = ledger.require_study(database, name)
        spent = ledger.spent_blocks(database, row.id)
        blocks += [row.board.get(SPENT, 0), *(ledger.block_at(one.first_seed) for one in spent)]
    return max(blocks)


def starts_of(board: Mapping[str, Any]) -> tuple[Start, ...]:
    """Return the starts that a study's row holds, in the order in which they are proposed."""
    return tuple(Start.from_json(one) for one in board.get("warm_start", ()))


def next_start(study: OpenStudy) -> Start | None:
    """Return the start that is proposed next, None where all have been."""
    for start in starts_of(study.row.board):
        if _evaluation(study, start) is None:
            return start
    return None


def begun(study: OpenStudy) -> tuple[tuple[Evaluation, tuple[Score, ...]], ...]:
    """Return the evaluations of the starts with their scores by rung, lowest first.

    Those that have diverged or failed have no place among them.
    """
    found = []
    for start in starts_of(study.row.board):
        evaluation = _evaluation(study, start)
        if evaluation is not None and evaluation.state not in ("diverged", "failed"):
            scores = ledger.scores(study.database, study.id, evaluation_id=evaluation.id)
            found.append((evaluation, scores))
    return tuple(found)


def best_start(study: OpenStudy) -> NDArray[np.float64] | None:
    """Return the logarithms of the start that was best at the first rung, float64 [p].

    Returns:
        None where no start has a score that is better than the untouched network's.
    """
    scored = [(one, scores[0].difference or 0.0) for one, scores in begun(study) if scores]
    best = min(scored, key=lambda pair: (pair[1], pair[0].number), default=None)
    if best is None or best[1] >= 0:
        return None
    return np.log([best[0].params[name] for name in study.space.scale_names])


def _evaluation(study: OpenStudy, start: Start) -> Evaluation | None:
    return ledger.find_evaluation(
        study.database,
        study.id,
        block=SEARCH_BLOCK,
        schedule=study.space.schedule(start.params).digest,
    )


def _of_file(path: str) -> list[_Found]:
    start = load_start(path)
    if start is not None:
        skips = tuple(skip.address for skip in start.skips)
        return [_Found(f"scales of {start.source}", start.schedule, skips, {})]
    tuned = load(path)
    skips = tuple(skip.address for skip in tuned.skips)
    return [_Found(f"tuned scales of study {tuned.study}", tuned.schedule, skips, {})]


def _of_study(database: Database, name: str, here: Here) -> list[_Found]:
    """Return the best schedules of a study: the newest confirmed winner, then the best so far."""
    if name == here.study:
        raise _refused("another study than this one", name)
    row = ledger.find_study(database, name)
    if row is None:
        names = [one.name for one in ledger.list_studies(database) if one.name != here.study]
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        meant = f" (did you mean `{near[0]}`?)" if near else ""
        raise _refused(f"a study of {database.name}{meant}", "no such study")
    best = leaders(database, name, MOST + 1)
    if not best:
        raise _refused("a study with a scored schedule", "one without")
    skips = tuple(row.board.get("skips", ()))
    if not skips and row.meaning.get("network.sha256") == here.sha256:
        skips = here.skips
    if not skips:
        raise _refused(
            "a study that says which skips its network has",
            f"one of an older version: open it with `skiptune resume {name}`, or export it",
        )
    won = [one.schedule for one in confirms(database, name) if one.verdict == WIN and one.schedule]
    proposals = ledger.evaluations(database, row.id, kind="proposal", block=SEARCH_BLOCK)
    by_schedule = {one.schedule: one for one in proposals}
    better = [one.schedule for one in best if (one.measured.difference or 0.0) < 0]
    chosen = list(dict.fromkeys([*won[-1:], *better]))[:MOST]
    if not chosen:
        raise _refused("a schedule that is better than the untouched network", "none so far")
    return [
        _Found(
            f"{by_schedule[schedule.digest].label} of {name}"
            + (", confirmed" if schedule in won else ""),
            schedule,
            skips,
            by_schedule[schedule.digest].params,
        )
        for schedule in chosen
    ]


def _refused(expected: str, found: str) -> SpecError:
    return SpecError("", expected=expected, found=found, hint=HINT)
