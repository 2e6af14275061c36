"""Budgets: what a study's search may spend, claimed in the database so that all workers share it.

Evaluations and images are claimed when a proposal or a rung is entered, under a lock of the
study's row: never one too many. Seconds are known only afterwards: once they are spent, no chunk
of the search is handed out any more.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from skiptune.errors import BudgetSpentError
from skiptune.storage.database import Database
from skiptune.storage.records import Budget
from skiptune.storage.rows import same_images, study_row
from skiptune.storage.seeds import CONFIRM_SEED
from skiptune.storage.tables import ChunkRow, EvaluationRow, RungRow, StudyRow

__all__ = ["SEARCH_BLOCK", "SLOPES_BLOCK", "budget_left", "seconds_spent", "wanted_chunks"]

SEARCH_BLOCK = "search"
"""The block of seeds of a study's search; budgets do not bind what confirms it."""

SLOPES_BLOCK = "slopes"
"""The same seeds again, for derivatives: bound by the search's seconds, not by its images."""


def wanted_chunks(study_id: str, block: str | None = None) -> Select[*tuple[Any, ...]]:
    """The rows of the chunks that a study's rungs ask for, each once; all blocks, or one."""
    query = (
        select(
            ChunkRow.id,
            ChunkRow.study_id,
            ChunkRow.state,
            ChunkRow.images,
            ChunkRow.seconds,
            ChunkRow.nfe,
            ChunkRow.doubled_images,
            ChunkRow.format,
        )
        .join(EvaluationRow, same_images())
        .join(RungRow, RungRow.evaluation_id == EvaluationRow.id)
        .where(
            EvaluationRow.study_id == study_id,
            ChunkRow.first_seed < EvaluationRow.first_seed + RungRow.images,
        )
        .distinct()
    )
    return query if block is None else query.where(EvaluationRow.block == block)


def budget_left(database: Database, study_id: str) -> Budget:
    """Return what a study's search may still spend, never below zero; None is no limit.

    Raises:
        StorageError: There is no such study.
    """

    def left(most: float | None, spent: Any) -> Any:
        return None if most is None else max(most - spent(), 0)

    with database.read() as session:
        study = study_row(session, study_id, lock=False)
        return Budget(
            evaluations=left(study.most_evaluations, lambda: _proposals(session, study_id)),
            images=left(study.most_images, lambda: _images(session, study_id)),
            seconds=left(study.most_seconds, lambda: seconds_spent(session, study_id)),
        )


def seconds_spent(session: Session, study_id: str) -> float:
    """Return the seconds of sampling that a study's search has paid for."""
    query = select(func.sum(ChunkRow.seconds)).where(
        ChunkRow.study_id == study_id,
        ChunkRow.state.in_(("done", "dropped")),
        # What confirms it lies above. By `wanted_chunks` each claim would read the whole study.
        ChunkRow.first_seed < CONFIRM_SEED,
    )
    return float(session.scalars(query).one() or 0.0)


def refuse_another_proposal(session: Session, study: StudyRow) -> None:
    """Refuse a proposal that the budget does not hold; the study's row is locked.

    Raises:
        BudgetSpentError: All its evaluations are entered.
    """
    if study.most_evaluations is None:
        return
    entered = _proposals(session, study.id)
    if entered >= study.most_evaluations:
        raise _spent(study, f"{study.most_evaluations} evaluations", f"{entered} entered")


def refuse_more_images(session: Session, study: StudyRow, block: str) -> None:
    """Refuse a rung that has just been added where its images exceed the budget.

    Raises:
        BudgetSpentError: The transaction must be given up: the rung is in it.
    """
    if study.most_images is None or block != SEARCH_BLOCK:
        return
    session.flush()
    asked = _images(session, study.id)
    if asked > study.most_images:
        raise _spent(study, f"{study.most_images:,} images", f"rungs that ask for {asked:,}")


def _proposals(session: Session, study_id: str) -> int:
    query = select(func.count()).where(
        EvaluationRow.study_id == study_id, EvaluationRow.kind == "proposal"
    )
    return int(session.scalars(query).one())


def _images(session: Session, study_id: str) -> int:
    chunks = wanted_chunks(study_id, SEARCH_BLOCK).subquery()
    # What another study has sampled costs this one nothing, also once its arrays are dropped.
    done = chunks.c.state.in_(("done", "dropped"))
    free = done & (func.coalesce(chunks.c.study_id, "") != study_id)
    query = select(func.coalesce(func.sum(chunks.c.images), 0)).where(~free)
    return int(session.scalars(query).one())


def _spent(study: StudyRow, expected: str, found: str) -> BudgetSpentError:
    return BudgetSpentError(
        f"study {study.name}: budget",
        expected=f"at most {expected}",
        found=found,
        hint=f"raise it in the study file and go on with `skiptune tune FILE`, or see"
        f" `skiptune status {study.name}`",
    )
