"""Confirm: decide on seeds that no decision has seen.

The k-th confirm of a study spends a block of 100,000 seeds that was never used, at level
alpha / 2^k, so that the levels of all confirms together stay below alpha. The first half of the
block (A) chooses one candidate and one option of each control; the second half (B) tests them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from skiptune.objectives.catalogue import CATALOGUE
from skiptune.sampling.schedule import Schedule
from skiptune.search import controls
from skiptune.search.projection import Board
from skiptune.search.promotion import best
from skiptune.search.result import NO_GAIN, WIN, Measured, Result, is_win
from skiptune.search.study import SEARCH, OpenStudy
from skiptune.storage import ledger
from skiptune.storage.records import Evaluation, Score, SpentBlock

__all__ = [
    "HALF",
    "Half",
    "begin_confirm",
    "candidates",
    "confirm_number",
    "halves",
    "next_half",
    "project_result",
    "result_of",
]

HALF = 50_000  # seeds of block A; block B begins this many seeds later


@dataclass(frozen=True)
class Half:
    """One half of a spent block: its name in the tables and its first seed."""

    name: str
    first_seed: int


def begin_confirm(study: OpenStudy, number: int) -> SpentBlock:
    """Spend the block of the number-th confirm; one that is spent is returned as it is.

    Arguments:
        study: A study whose search has ended.
        number: From 1 on, at most one more than are spent.
    """
    return ledger.spend_block(
        study.database,
        study.id,
        block=f"confirm-{number}",
        images=2 * HALF,
        alpha=study.spec.confirm.alpha,
    )


def halves(spent: SpentBlock) -> tuple[Half, Half]:
    """Return block A, which chooses, and block B, which tests."""
    return (
        Half(f"{spent.block}/A", spent.first_seed),
        Half(f"{spent.block}/B", spent.first_seed + HALF),
    )


def next_half(study: OpenStudy, number: int) -> Half | None:
    """Enter what the number-th confirm needs next, and return the half it is measured on.

    Called again, while chunks of that half are being sampled or after a crash, it enters what is
    missing and returns the same half.

    Returns:
        The half whose rungs are open, or None: everything is scored, read it with `result_of`.

    Raises:
        NetworkError: The baseline has diverged on these seeds.
    """
    half_a, half_b = halves(begin_confirm(study, number))
    if ledger.open_rungs(study.database, study.id, block=half_a.name):
        return half_a
    if ledger.open_rungs(study.database, study.id, block=half_b.name):
        return half_b
    candidates_, options = _enter_choice(study, half_a, half_b)
    if ledger.open_rungs(study.database, study.id, block=half_a.name):
        return half_a
    picks = {family: _best_of(study, choices) for family, choices in options.items()}
    chosen = {family: pick for family, pick in picks.items() if pick is not None}
    _enter_test(study, half_b, _best_of(study, candidates_), chosen)
    if ledger.open_rungs(study.database, study.id, block=half_b.name):
        return half_b
    return None


def result_of(study: OpenStudy, number: int) -> Result:
    """Return what the number-th confirm found; all of it is scored (`next_half` returns None).

    Raises:
        ValueError: It is not finished, or the baseline's own images are not finite.
    """
    spent = begin_confirm(study, number)
    half_a, half_b = halves(spent)
    here = ledger.evaluations(study.database, study.id, block=half_b.name)
    base = next(e for e in here if e.kind == "baseline")
    winner = next((e for e in here if e.kind == "confirm"), None)
    measured_controls = [e for e in here if e.kind == "control"]
    scores = _scores(study)
    measured = {
        e.id: _measured(study, e, scores[e.id])
        for e in (base, winner, *measured_controls)
        if e is not None and e.id in scores
    }
    if base.id not in measured:
        raise ValueError("the baseline has no score: the confirm is not finished")
    min_gain = study.spec.confirm.min_gain
    tuned = None if winner is None else measured.get(winner.id)
    violated: tuple[str, ...] = ()
    if winner is not None and tuned is not None:
        violated = _violated(study).get((winner.id, scores[winner.id].level), ())
    won = (
        tuned is not None
        and not violated
        and is_win(tuned, measured[base.id], alpha=spent.alpha, min_gain=min_gain)
    )
    params = {} if winner is None else dict(winner.params)
    spending = ledger.spending(study.database, study.id)
    return Result(
        study=study.spec.study,
        metric=scores[base.id].metric,
        setting=study.setting,
        confirm=spent.number,
        alpha=spent.alpha,
        min_gain=min_gain,
        seeds=(half_a.first_seed, half_b.first_seed),
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
        better=CATALOGUE[study.spec.objective.keys[0]].better,
        violated=violated,
    )


def project_result(study: OpenStudy, board: Board, result: Result) -> None:
    """Put a confirmed win and its baseline into Optuna's study `NAME/confirmed`."""
    if result.verdict != WIN:
        return
    block = halves(begin_confirm(study, result.confirm))[1].name
    here = ledger.evaluations(study.database, study.id, block=block)
    base = next(e for e in here if e.kind == "baseline")
    winner = next(e for e in here if e.kind == "confirm")
    board.project_confirmed(base, winner)


def confirm_number(study: OpenStudy) -> int:
    """Return which confirm serves the search as it stands, from 1 on.

    That is the newest one where it was begun on the same candidates, else the next: a block that
    has judged other candidates is spent.
    """
    spent = ledger.spent_blocks(study.database, study.id)
    if not spent:
        return 1
    newest = spent[-1]
    half_a, half_b = halves(newest)
    begun = ledger.evaluations(study.database, study.id, kind="confirm", block=half_a.name)
    now = candidates(study)
    if not ledger.evaluations(study.database, study.id, block=half_b.name):
        # Nothing is decided yet; a crash may have left the first candidates only.
        now = now[: len(begun)]
    same = [e.schedule for e in begun] == [e.schedule for e in now]
    return newest.number if same or not begun else newest.number + 1


def candidates(study: OpenStudy) -> tuple[Evaluation, ...]:
    """Return the search's best evaluations: those with most images first, then the best value."""
    proposals = {
        e.id: e
        for e in ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)
        if e.state not in ("diverged", "failed")
    }
    violated = _violated(study)
    scores = [
        s
        for s in ledger.scores(study.database, study.id)
        if s.evaluation_id in proposals and (s.evaluation_id, s.level) not in violated
    ]
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


def _enter_choice(
    study: OpenStudy, half: Half, test: Half
) -> tuple[list[Evaluation], dict[str, list[Evaluation]]]:
    """Enter the candidates and the options of each control family on block A."""
    _, images = _baseline(study, half)
    fewer = min(study.rungs[0], images)  # many options, one scalar each: the first rung serves
    # Without sampled images there is nothing that a solver could change.
    asked = study.spec.confirm.controls and study.objective.samples
    families = controls.options(study.setting) if asked else {}
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
        for rank, evaluation in enumerate(_chosen(study, half, test), start=1)
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
    return entered, options


def _chosen(study: OpenStudy, half: Half, test: Half) -> tuple[Evaluation, ...]:
    """Return the candidates that block A was begun with, else those of the search as it stands.

    They are entered one by one: until block B is begun, there may be the first of them only.
    """
    begun = ledger.evaluations(study.database, study.id, kind="confirm", block=half.name)
    if ledger.evaluations(study.database, study.id, block=test.name):
        return begun
    now = candidates(study)
    same = [e.schedule for e in begun] == [e.schedule for e in now][: len(begun)]
    return now if same else begun


def _enter_test(
    study: OpenStudy,
    half: Half,
    candidate: Evaluation | None,
    picks: dict[str, Evaluation],
) -> None:
    """Enter baseline, candidate and controls on block B."""
    _, images = _baseline(study, half)
    if candidate is not None:
        study.evaluate(
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
    for family, pick in picks.items():
        study.evaluate(
            Schedule.baseline(),
            kind="control",
            label=f"{family}: {pick.label}",
            block=half.name,
            first_seed=half.first_seed,
            images=images,
            setting=settings[pick.label],
        )


def _baseline(study: OpenStudy, half: Half) -> tuple[Evaluation, int]:
    """Enter the block's baseline; a block that was begun keeps its number of images."""
    base = study.baseline(
        block=half.name, first_seed=half.first_seed, images=study.spec.confirm.images
    )
    return base, study.images_of(base)


def _scores(study: OpenStudy) -> dict[str, Score]:
    return {s.evaluation_id: s for s in ledger.scores(study.database, study.id)}


def _violated(study: OpenStudy) -> dict[tuple[str, int], tuple[str, ...]]:
    """Return the constraints that are violated, by evaluation and level."""
    if not study.spec.objective.constraints:
        return {}
    found: dict[tuple[str, int], tuple[str, ...]] = {}
    for score in ledger.scores(study.database, study.id, every_place=True):
        if score.is_violated:
            key = (score.evaluation_id, score.level)
            found[key] = (*found.get(key, ()), score.metric)
    return found


def _best_of(study: OpenStudy, choices: Iterable[Evaluation]) -> Evaluation | None:
    scores, violated = _scores(study), _violated(study)
    by_number = {e.number: e for e in choices}
    differences = {
        number: difference
        for number, e in by_number.items()
        if e.id in scores
        and (difference := scores[e.id].difference) is not None
        and (e.id, scores[e.id].level) not in violated
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
