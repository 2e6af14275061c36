"""Confirm: decide on seeds that no decision has seen.

The k-th confirm of a study spends a block of 100,000 seeds that was never used, at level
alpha / 2^k, so that the levels of all confirms together stay below alpha. The first half of the
block (A) chooses one candidate and one option of each control; the second half (B) tests them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from skiptune.sampling.schedule import Schedule
from skiptune.search import controls
from skiptune.search.events import Listener, Stage, silent
from skiptune.search.projection import Board
from skiptune.search.promotion import best
from skiptune.search.result import NO_GAIN, WIN, Measured, Result, is_win
from skiptune.search.study import SEARCH, OpenStudy
from skiptune.search.worker import work_off
from skiptune.storage import ledger
from skiptune.storage.records import Evaluation, Score, SpentBlock

__all__ = ["HALF", "candidates", "confirm", "confirm_number", "images_of"]

HALF = 50_000  # seeds of block A; block B begins this many seeds later


@dataclass(frozen=True)
class Half:
    """One half of a spent block: its name in the tables and its first seed."""

    name: str
    first_seed: int


def confirm(study: OpenStudy, *, number: int, on_event: Listener = silent) -> Result:
    """Run the number-th confirm of a study, or read it where it is finished.

    Arguments:
        study: A study whose search has ended.
        number: From 1 on; a begun confirm is resumed, a finished one spending nothing.
        on_event: Who watches.
    """
    spent = ledger.spend_block(
        study.database,
        study.id,
        block=f"confirm-{number}",
        images=2 * HALF,
        alpha=study.spec.confirm.alpha,
    )
    half_a = Half(f"{spent.block}/A", spent.first_seed)
    half_b = Half(f"{spent.block}/B", spent.first_seed + HALF)
    candidate, picks = _choose(study, half_a, on_event)
    return _test(study, spent, (half_a, half_b), candidate, picks, on_event)


def confirm_number(study: OpenStudy) -> int:
    """Return which confirm serves the search as it stands, from 1 on.

    That is the newest one where it was begun on the same candidates, else the next: a block that
    has judged other candidates is spent.
    """
    spent = ledger.spent_blocks(study.database, study.id)
    if not spent:
        return 1
    begun = ledger.evaluations(
        study.database, study.id, kind="confirm", block=f"{spent[-1].block}/A"
    )
    same = [e.schedule for e in begun] == [e.schedule for e in candidates(study)]
    return spent[-1].number if same or not begun else spent[-1].number + 1


def candidates(study: OpenStudy) -> tuple[Evaluation, ...]:
    """Return the search's best evaluations: those with most images first, then the best value."""
    proposals = {
        e.id: e
        for e in ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)
        if e.state not in ("diverged", "failed")
    }
    scores = [s for s in ledger.scores(study.database, study.id) if s.evaluation_id in proposals]
    by_number = {e.number: e for e in proposals.values()}
    chosen: list[int] = []
    for level in reversed(range(len(study.rungs))):
        here = {
            proposals[s.evaluation_id].number: s.difference
            for s in scores
            if s.level == level and s.difference is not None
        }
        left = {number: value for number, value in here.items() if number not in chosen}
        chosen += best(left, study.spec.confirm.candidates - len(chosen))
    return tuple(by_number[number] for number in chosen)


def _choose(
    study: OpenStudy, half: Half, on_event: Listener
) -> tuple[Evaluation | None, dict[str, Evaluation]]:
    """Return the candidate and the option of each control family that do best on block A."""
    _, images = _baseline(study, half)
    fewer = min(study.rungs[0], images)  # many options, one scalar each: the first rung serves
    families = controls.options(study.setting) if study.spec.confirm.controls else {}
    entered = [
        study.evaluate(
            study.space.schedule(evaluation.params),
            kind="confirm",
            label=f"candidate {rank}",
            block=half.name,
            first_seed=half.first_seed,
            images=images,
            params=evaluation.params,
        )
        for rank, evaluation in enumerate(candidates(study), start=1)
    ]
    options = {
        family: [
            study.evaluate(
                Schedule.baseline(),
                kind="control",
                label=label,
                block=half.name,
                first_seed=half.first_seed,
                images=fewer,
                setting=setting,
            )
            for label, setting in choices
        ]
        for family, choices in families.items()
    }
    _drain(study, half, f"confirm {half.name[-1]}", on_event)
    picks = {family: _best_of(study, choices) for family, choices in options.items()}
    return _best_of(study, entered), {f: pick for f, pick in picks.items() if pick is not None}


def _test(
    study: OpenStudy,
    spent: SpentBlock,
    halves: tuple[Half, Half],
    candidate: Evaluation | None,
    picks: dict[str, Evaluation],
    on_event: Listener,
) -> Result:
    """Measure baseline, candidate and controls on block B and give the verdict."""
    half = halves[1]
    base, images = _baseline(study, half)
    winner = None
    if candidate is not None:
        winner = study.evaluate(
            study.space.schedule(candidate.params),
            kind="confirm",
            label="tuned",
            block=half.name,
            first_seed=half.first_seed,
            images=images,
            params=candidate.params,
        )
    settings = {
        label: setting
        for choices in controls.options(study.setting).values()
        for label, setting in choices
    }
    measured_controls = [
        study.evaluate(
            Schedule.baseline(),
            kind="control",
            label=f"{family}: {pick.label}",
            block=half.name,
            first_seed=half.first_seed,
            images=images,
            setting=settings[pick.label],
        )
        for family, pick in picks.items()
    ]
    _drain(study, half, f"confirm {half.name[-1]}", on_event)

    scores = _scores(study)
    measured = {
        e.id: _measured(study, e, scores[e.id])
        for e in (base, winner, *measured_controls)
        if e is not None and e.id in scores
    }
    if base.id not in measured:
        raise ValueError("the baseline's own images are not finite")
    min_gain = study.spec.confirm.min_gain
    tuned = None if winner is None else measured.get(winner.id)
    won = tuned is not None and is_win(
        tuned, measured[base.id], alpha=spent.alpha, min_gain=min_gain
    )
    if won and winner is not None:
        Board(study).project_confirmed(base, winner)
    params = {} if winner is None else dict(winner.params)
    spending = ledger.spending(study.database, study.id)
    return Result(
        study=study.spec.study,
        metric=scores[base.id].metric,
        setting=study.setting,
        confirm=spent.number,
        alpha=spent.alpha,
        min_gain=min_gain,
        seeds=(halves[0].first_seed, halves[1].first_seed),
        baseline=measured[base.id],
        winner=tuned,
        controls=tuple(measured[e.id] for e in measured_controls if e.id in measured),
        schedule=study.space.schedule(params) if params else Schedule.baseline(),
        params=params,
        edges=study.space.edges(params) if params else (),
        evaluations=len(ledger.evaluations(study.database, study.id, kind="proposal")),
        images=spending.images,
        seconds=spending.seconds,
        verdict=WIN if won else NO_GAIN,
    )


def _baseline(study: OpenStudy, half: Half) -> tuple[Evaluation, int]:
    """Enter the block's baseline; a block that was begun keeps its number of images."""
    base = study.baseline(
        block=half.name, first_seed=half.first_seed, images=study.spec.confirm.images
    )
    return base, study.images_of(base)


def _drain(study: OpenStudy, half: Half, stage: str, on_event: Listener) -> None:
    """Work until no chunk of the block is open, scoring rungs as they complete."""
    on_event(Stage(stage, *images_of(study, half.name)))
    work_off(study, on_event=on_event)


def images_of(study: OpenStudy, block: str) -> tuple[int, int]:
    """Return the images that a block's evaluations need, and how many of them are stored."""
    chunks = {
        chunk.id: chunk
        for evaluation in ledger.evaluations(study.database, study.id, block=block)
        for chunk in ledger.chunks_of(study.database, evaluation.id)
    }
    needed = sum(chunk.images for chunk in chunks.values())
    return needed, sum(c.images for c in chunks.values() if c.state == "done")


def _scores(study: OpenStudy) -> dict[str, Score]:
    return {s.evaluation_id: s for s in ledger.scores(study.database, study.id)}


def _best_of(study: OpenStudy, choices: Iterable[Evaluation]) -> Evaluation | None:
    scores = _scores(study)
    by_number = {e.number: e for e in choices}
    differences = {
        number: difference
        for number, e in by_number.items()
        if e.id in scores and (difference := scores[e.id].difference) is not None
    }
    return next((by_number[number] for number in best(differences, 1)), None)


def _measured(study: OpenStudy, evaluation: Evaluation, score: Score) -> Measured:
    chunk = ledger.chunks_of(study.database, evaluation.id, score.images)[0]
    return Measured(
        label=evaluation.label,
        images=score.images,
        nfe=chunk.nfe or 0.0,
        value=score.value,
        standard_error=score.standard_error or 0.0,
        difference=score.difference,
        difference_error=score.difference_error,
    )
