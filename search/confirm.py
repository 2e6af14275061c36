"""Confirm: decide on seeds that no decision has seen.

The k-th confirm of a study spends a block of 100,000 seeds that was never used, at level
alpha / 2^k, so that the levels of all confirms together stay below alpha. The first half of the
block (A) chooses one candidate, by sequential halving, and one option of each control; the second
half (B) tests them. A search that has nothing better than the baseline to show spends no block.

Everything is a function of the rows: whoever goes on after a crash, at any moment, enters what is
missing and nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skiptune.sampling.prompts import SEARCH_SHARE, confirm_share
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search import controls
from skiptune.search.candidates import begun_on, candidates, in_violation
from skiptune.search.halving import Round, cost, fewest_images, rounds
from skiptune.search.knobs import SETTING_ALONE
from skiptune.search.looks import measured_of, other_looks
from skiptune.search.luck import luck_of, rankings
from skiptune.search.projection import Board
from skiptune.search.promotion import best
from skiptune.search.prompting import prompt_counts, refuse_few_prompts
from skiptune.search.result import NO_GAIN, WIN, Result, is_win, of_search
from skiptune.search.study import SEARCH_SEED, OpenStudy
from skiptune.search.warm_start import SPENT
from skiptune.storage import ledger
from skiptune.storage.records import SECOND_PLACE, Evaluation, Score, SpentBlock

__all__ = [
    "HALF",
    "Half",
    "begin_confirm",
    "block_of",
    "confirm_number",
    "halves",
    "later_images",
    "next_half",
    "project_result",
    "result_of",
]

Families = Mapping[str, tuple[tuple[str, Setting], ...]]
"""The options of each control family: label and setting."""

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
        after=study.row.board.get(SPENT, 0),
    )


def block_of(study: OpenStudy, number: int) -> int:
    """Return the number of the block of seeds that a confirm has spent or would spend."""
    after = study.row.board.get(SPENT, 0)
    return ledger.block_of_confirm(study.database, study.id, number, after=after)


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
        The half whose rungs are open, or None: everything is scored, or there is nothing to test;
        read it with `result_of`.

    Raises:
        NetworkError: The baseline has diverged on these seeds.
        SpecError: The file holds too few prompts for this confirm.
    """
    if _nothing_to_test(study, number):
        return None
    refuse_few_prompts(study.checkpoint, study.spec, block=block_of(study, number))
    half_a, half_b = halves(begin_confirm(study, number))
    for half in (half_a, half_b):
        if ledger.open_rungs(study.database, study.id, block=half.name):
            return half
    entered, plan, options = _enter_choice(study, half_a, half_b)
    left = _raced(study, half_a, entered, plan)
    if ledger.open_rungs(study.database, study.id, block=half_a.name):
        return half_a
    picks = {family: _best_of(study, choices) for family, choices in options.items()}
    chosen = {family: pick for family, pick in picks.items() if pick is not None}
    _enter_test(study, half_b, next(iter(left), None), chosen)
    if ledger.open_rungs(study.database, study.id, block=half_b.name):
        return half_b
    return None


def result_of(study: OpenStudy, number: int) -> Result:
    """Return what the number-th confirm found; all of it is scored (`next_half` returns None).

    Raises:
        ValueError: It is not finished, or the baseline's own images are not finite.
    """
    if _nothing_to_test(study, number):
        return _untested(study, number)
    spent = begin_confirm(study, number)
    half_a, half_b = halves(spent)
    here = ledger.evaluations(study.database, study.id, block=half_b.name)
    base = next(e for e in here if e.kind == "baseline")
    winner = next((e for e in here if e.kind == "confirm"), None)
    measured_controls = [e for e in here if e.kind == "control"]
    scores = _scores(study)
    measured = {
        e.id: measured_of(study.database, e, scores[e.id])
        for e in (base, winner, *measured_controls)
        if e is not None and e.id in scores
    }
    if base.id not in measured:
        raise ValueError("the baseline has no score: the confirm is not finished")
    min_gain = study.spec.confirm.min_gain
    tuned = None if winner is None else measured.get(winner.id)
    violated: tuple[str, ...] = ()
    if winner is not None and tuned is not None:
        violated = in_violation(study).get((winner.id, scores[winner.id].level), ())
    won = (
        tuned is not None
        and not violated
        and is_win(tuned, measured[base.id], alpha=spent.alpha, min_gain=min_gain)
    )
    params = {} if winner is None else dict(winner.params)
    seen = None if winner is None or tuned is None else (winner, scores[winner.id])
    looks = {} if winner is None else other_looks(study.database, study.id, base, winner)
    screened = study.spec.screen is not None
    return Result(
        **of_search(study),
        metric=scores[base.id].metric,
        confirm=spent.number,
        alpha=spent.alpha,
        seeds=(half_a.first_seed, half_b.first_seed),
        baseline=measured[base.id],
        winner=tuned,
        controls=tuple(measured[e.id] for e in measured_controls if e.id in measured),
        schedule=study.space.schedule(params) if params else Schedule.baseline(),
        params=params,
        edges=study.space.edges(params) if params else (),
        verdict=WIN if won else NO_GAIN,
        violated=violated,
        second=looks.pop(SECOND_PLACE, None),
        parts=tuple(looks.values()),
        luck=None if seen is None else luck_of(study.database, study.id, *seen, screened=screened),
        rankings=rankings(study.database, study.id, half_a.name, rungs=study.rungs),
        prompts=_prompts(study, number, confirm_share(block_of(study, number), "B")),
    )


def _prompts(study: OpenStudy, number: int, share: str) -> int | None:
    """Return from how many prompts a share draws, None where errors count images."""
    counts = prompt_counts(study.checkpoint, study.spec, block=block_of(study, number))
    return counts.get(share)


def _nothing_to_test(study: OpenStudy, number: int) -> bool:
    """Return whether a confirm that has not begun would have no candidate.

    A search without a score of the baseline has nothing to say of its candidates: then block B
    measures the baseline.
    """
    begun = {f"confirm-{number}/{half}" for half in "AB"}
    return (
        not any(e.block in begun for e in ledger.evaluations(study.database, study.id))
        and ledger.baseline_score(study.database, study.id) is not None
        and not candidates(study)
    )


def _untested(study: OpenStudy, number: int) -> Result:
    """Return the result of a search that has shown nothing better than the baseline."""
    found = ledger.baseline_score(study.database, study.id)
    assert found is not None
    baseline, score = found
    return Result(
        **of_search(study),
        metric=score.metric,
        confirm=number,
        alpha=study.spec.confirm.alpha / 2.0**number,
        seeds=(SEARCH_SEED, SEARCH_SEED),
        baseline=measured_of(study.database, baseline, score),
        winner=None,
        controls=(),
        schedule=Schedule.baseline(),
        params={},
        edges=(),
        verdict=NO_GAIN,
        tested=False,
        prompts=_prompts(study, number, SEARCH_SHARE),
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
    half_a, _ = halves(newest)
    begun = ledger.evaluations(study.database, study.id, kind="confirm", block=half_a.name)
    same = not begun or begun_on(study, begun)
    return newest.number if same else newest.number + 1


def _enter_choice(
    study: OpenStudy, half: Half, test: Half
) -> tuple[list[Evaluation], tuple[Round, ...], dict[str, list[Evaluation]]]:
    """Enter the candidates with their first round, and the options of each control family.

    Returns:
        The candidates, their rounds, and the options by family.
    """
    spec = study.spec
    fewer = _first_look(study)
    begun = ledger.evaluations(study.database, study.id, kind="confirm", block=half.name)
    chosen = _chosen(study, half, test, begun)
    one = len(chosen) < 2
    base = study.baseline(
        block=half.name,
        first_seed=half.first_seed,
        images=fewer if one else spec.confirm.images,
    )
    there = study.images_of(base)
    # A block that was begun keeps its number of images.
    images = there if one or len(begun) > 1 else max(there, spec.confirm.images)
    plan = rounds(
        max(len(chosen), 1),
        images,
        fewest=min(fewer, images),
        begun=_first_rung(study, begun[0]) if begun else None,
    )
    if there < plan[-1].images:
        # It was begun with a lone candidate, and the search has found others since.
        for evaluation in _untouched(study, half):
            ledger.promote(study.database, evaluation.id, plan[-1].images)
    # Without sampled images there is nothing that a solver could change.
    asked = spec.confirm.families if study.objective.samples else ()
    families = _asked(study, half, test, controls.options(study.setting, asked, fits=study.fits))
    entered = [
        study.evaluate(
            study.space.schedule(evaluation.params),
            kind="confirm",
            label=f"candidate {rank}",
            block=half.name,
            first_seed=half.first_seed,
            images=plan[0].images,
            params=evaluation.params,
        )
        for rank, evaluation in enumerate(chosen, start=1)
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
    return entered, plan, options


def later_images(study: OpenStudy, block: str) -> int:
    """Return the images that the rounds to come will ask for on a block that has begun."""
    here = ledger.evaluations(study.database, study.id, kind="confirm", block=block)
    base = ledger.evaluations(study.database, study.id, kind="baseline", block=block)
    if len(here) < 2 or not base:
        return 0
    plan = rounds(
        len(here),
        study.images_of(base[0]),
        fewest=_first_look(study),
        begun=_first_rung(study, here[0]),
    )
    return max(cost(len(here), plan) - sum(study.images_of(one) for one in here), 0)


def _first_look(study: OpenStudy) -> int:
    screen = study.spec.screen is not None
    return fewest_images(study.rungs, study.spec.confirm.images, screen=screen)


def _raced(
    study: OpenStudy, half: Half, entered: Iterable[Evaluation], plan: Sequence[Round]
) -> tuple[Evaluation, ...]:
    """Return the candidates that are left, best first, after the rounds that are complete.

    The next round of those that are left is entered, in which nothing is decided while a rung of
    the half is open. Who is alone needs no more images.
    """
    left = tuple(entered)
    for level, one in enumerate(plan):
        if level and len(left) > 1:
            for evaluation in left:
                ledger.promote(study.database, evaluation.id, one.images)
        if ledger.open_rungs(study.database, study.id, block=half.name):
            return left
        if level == 0 or len(left) > 1:
            left = _best(study, left, level=level, count=one.keep)
    return left


def _first_rung(study: OpenStudy, evaluation: Evaluation) -> int:
    return ledger.rungs(study.database, study.id, evaluation_id=evaluation.id)[0].images


def _untouched(study: OpenStudy, half: Half) -> list[Evaluation]:
    """Return the baseline of a half, and the images of many steps where it has some."""
    here = ledger.evaluations(study.database, study.id, block=half.name)
    return [e for e in here if e.kind in ("baseline", "teacher")]


def _asked(study: OpenStudy, half: Half, test: Half, families: Families) -> Families:
    """Return the options of each family, once block B is begun those it was chosen from.

    A later version may know more of them: what is decided is not decided again.
    """
    if not ledger.evaluations(study.database, study.id, block=test.name):
        return families
    entered = ledger.evaluations(study.database, study.id, kind="control", block=half.name)
    labels = {evaluation.label for evaluation in entered}
    begun = {
        family: tuple(option for option in choices if option[0] in labels)
        for family, choices in families.items()
    }
    return {family: begun[family] or choices for family, choices in families.items()}


def _chosen(
    study: OpenStudy, half: Half, test: Half, begun: tuple[Evaluation, ...]
) -> tuple[Evaluation, ...]:
    """Return the candidates that block A was begun with, else those of the search as it stands.

    They are entered one by one: until something is decided, there may be the first of them only.
    """
    if ledger.evaluations(study.database, study.id, block=test.name):
        return begun
    mine = {e.id for e in begun}
    later = (
        rung.level > 0
        for rung in ledger.rungs(study.database, study.id)
        if rung.evaluation_id in mine
    )
    if any(later):
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
    """Enter baseline, candidate and controls on block B.

    The first two are looked at twice where a second opinion is asked for; a block that was begun
    otherwise goes on so.
    """
    images, measure = _begun(study, half)
    place: dict[str, Any] = dict(block=half.name, first_seed=half.first_seed, images=images)
    study.baseline(block=half.name, first_seed=half.first_seed, images=images, measure=measure)
    if candidate is not None:
        study.evaluate(
            study.space.schedule(candidate.params),
            kind="confirm",
            label="tuned",
            **place,
            params=candidate.params,
            measure=measure,
        )
        knobs = study.space.schedule(candidate.params).knobs
        if knobs and study.space.scale_names:
            study.evaluate(Schedule(knobs=knobs), kind="control", label=SETTING_ALONE, **place)
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
            **place,
            setting=settings[pick.label],
        )


def _begun(study: OpenStudy, half: Half) -> tuple[int, Mapping[str, Any]]:
    """Return the images and the measure of a half: where it was begun, those of its baseline."""
    here = ledger.evaluations(study.database, study.id, kind="baseline", block=half.name)
    if here:
        return study.images_of(here[0]), ledger.description(study.database, here[0].measure)
    second = study.objective.second
    measure = study.measure if second is None else second.measure_with(study.measure)
    return study.spec.confirm.images, measure


def _scores(study: OpenStudy) -> dict[str, Score]:
    return {s.evaluation_id: s for s in ledger.scores(study.database, study.id)}


def _best_of(study: OpenStudy, choices: Iterable[Evaluation]) -> Evaluation | None:
    return next(iter(_best(study, choices, level=0, count=1)), None)


def _best(
    study: OpenStudy, choices: Iterable[Evaluation], *, level: int, count: int
) -> tuple[Evaluation, ...]:
    """Return those with the lowest differences at a level, best first, whoever has one."""
    violated = in_violation(study)
    by_id = {e.id: e for e in choices}
    by_number = {e.number: e for e in by_id.values()}
    differences = {
        by_id[score.evaluation_id].number: score.difference
        for score in ledger.scores(study.database, study.id, level=level)
        if score.evaluation_id in by_id
        and score.difference is not None
        and (score.evaluation_id, level) not in violated
    }
    return tuple(by_number[number] for number in best(differences, count))
