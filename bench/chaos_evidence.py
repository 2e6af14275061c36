"""What a chaos run leaves behind: our rows, Optuna's, the chunks' history, the workers' logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from bench import chaos_logs
from bench.chaos_databases import Change
from bench.chaos_study import NAME
from skiptune.search.confirm import result_of
from skiptune.search.projection import SCHEDULE, board_names
from skiptune.search.study import SEARCH, OpenStudy, open_stored
from skiptune.storage import leases, ledger
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.storage.records import Chunk, Evaluation, Score

__all__ = ["Evidence", "Scored", "Trial", "gather"]


@dataclass(frozen=True)
class Scored:
    """One score, by what it is of; identifiers and times, which differ between runs, left out."""

    block: str
    number: int
    kind: str
    label: str
    schedule: str
    level: int
    metric: str
    images: int
    value: float
    standard_error: float
    raw: float | None
    difference: float | None
    difference_error: float | None

    @classmethod
    def of(cls, evaluation: Evaluation, score: Score) -> Scored:
        """Return a score with its evaluation."""
        return cls(
            block=evaluation.block,
            number=evaluation.number,
            kind=evaluation.kind,
            label=evaluation.label,
            schedule=evaluation.schedule,
            level=score.level,
            metric=score.metric,
            images=score.images,
            value=score.value,
            standard_error=score.standard_error,
            raw=score.raw,
            difference=score.difference,
            difference_error=score.difference_error,
        )


@dataclass(frozen=True)
class Trial:
    """One of Optuna's trials; `schedule` is empty where it never became an evaluation."""

    state: str
    schedule: str
    value: float | None


@dataclass(frozen=True)
class Evidence:
    """All of it, plain data.

    Arguments:
        state: The study's.
        budget: Evaluations that its search may enter.
        entered: Evaluations that it has entered.
        wanted: Images that its rungs ask for, of all blocks.
        stored: Images of them that are stored.
        spent: Images that were sampled for it.
        doubled: Images sampled once more and dropped.
        chunks: Every chunk by identifier.
        open: What is not at its end, in words.
        scores: All scores, by number and level.
        rungs: Optuna's trials of each rung, the lowest first.
        confirmed: Those of the confirmed winner; None where there is no such study.
        result: The verdict, without what belongs to a run.
        history: Every change of a chunk.
        images: Every sampled image.
        events: What the workers wrote down beside them.
    """

    state: str
    budget: int
    entered: int
    wanted: int
    stored: int
    spent: int
    doubled: int
    chunks: Mapping[str, Chunk]
    open: tuple[str, ...]
    scores: tuple[Scored, ...]
    rungs: tuple[tuple[Trial, ...], ...]
    confirmed: tuple[Trial, ...] | None
    result: Mapping[str, Any]
    history: tuple[Change, ...]
    images: tuple[chaos_logs.Image, ...]
    events: tuple[chaos_logs.Event, ...]


def gather(url: str, *, artifacts: Path, logs: Path, history: tuple[Change, ...] = ()) -> Evidence:
    """Read everything, after the last worker has ended.

    Arguments:
        url: Of the database.
        artifacts: Folder of the arrays.
        logs: Folder of the logs.
        history: From `chaos_databases.history`.
    """
    study = open_stored(NAME, storage=url, artifacts=artifacts)
    database = study.database
    try:
        evaluations = ledger.evaluations(database, study.id)
        by_id = {evaluation.id: evaluation for evaluation in evaluations}
        spending = ledger.spending(database, study.id)
        blocks = sorted({evaluation.block for evaluation in evaluations})
        asked = [ledger.images_wanted(database, study.id, block=block) for block in blocks]
        chunks = {c.id: c for e in evaluations for c in ledger.chunks_of(database, e.id)}
        *rungs, confirmed = _trials(study)
        return Evidence(
            state=ledger.require_study(database, NAME).state,
            budget=study.spec.search.evaluations,
            entered=ledger.count_evaluations(database, study.id, kind="proposal", block=SEARCH),
            wanted=sum(wanted for wanted, _ in asked),
            stored=sum(stored for _, stored in asked),
            spent=spending.images,
            doubled=spending.doubled_images,
            chunks=chunks,
            open=_open(study, evaluations),
            scores=tuple(
                Scored.of(by_id[score.evaluation_id], score)
                for score in ledger.scores(database, study.id)
            ),
            rungs=tuple(trials or () for trials in rungs),
            confirmed=confirmed,
            result={
                key: value
                for key, value in result_of(study, 1).to_json().items()
                if key != "seconds"
            },
            history=history,
            images=chaos_logs.images(logs),
            events=chaos_logs.events(logs),
        )
    finally:
        database.close()


def _open(study: OpenStudy, evaluations: tuple[Evaluation, ...]) -> tuple[str, ...]:
    database = study.database
    states = ledger.progress(database, study.id).chunks
    return (
        *(f"lease of {lease.worker}" for lease in leases.leases(database, study.id)),
        *(f"rung of {r.images} images" for r in ledger.open_rungs(database, study.id)),
        *(f"{e.label}: {e.state}" for e in evaluations if e.state != "complete"),
        *(f"{count} chunks {state}" for state, count in states.items() if state != "done"),
    )


def _trials(study: OpenStudy) -> list[tuple[Trial, ...] | None]:
    """Read Optuna's studies: those of the rungs, and the confirmed one last."""
    storage = optuna_storage(study.database)
    there = set(optuna.get_all_study_names(storage))
    found: list[tuple[Trial, ...] | None] = []
    for name in board_names(study.row):
        if name not in there:
            found.append(None)
            continue
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
        found.append(
            tuple(Trial(t.state.name, t.user_attrs.get(SCHEDULE, ""), t.value) for t in trials)
        )
    return found
