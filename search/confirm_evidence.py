"""What stands beside the verdict of each confirm: controls, luck, and what else was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from skiptune.search.looks import measured_of
from skiptune.search.overview import Confirmed, Other
from skiptune.search.result import Luck, Measured
from skiptune.storage import ledger
from skiptune.storage.database import Database
from skiptune.storage.records import Score

__all__ = ["ConfirmEvidence", "confirm_evidence"]


@dataclass(frozen=True)
class ConfirmEvidence:
    """What a confirm tells beside its verdict, all on its block B.

    Arguments:
        controls: The best option of each control.
        luck: How much larger the winner's gain was in the search, which chose it, as a part of
            the baseline's value on block B; None where nothing is measured yet.
        luck_error: Its standard error: the blocks share no seed, so the errors of both add up.
        beside: What else was measured of the winner, a second opinion for example.
    """

    controls: tuple[Measured, ...]
    luck: float | None
    luck_error: float | None
    beside: tuple[Other, ...]


def confirm_evidence(
    database: Database,
    study_id: str,
    confirms: Sequence[Confirmed],
    *,
    searched: Mapping[str, Score],
) -> dict[int, ConfirmEvidence]:
    """Return what stands beside each confirm, by its number.

    Arguments:
        database: Where the study lives.
        study_id: The study.
        confirms: Its confirms.
        searched: The search's last score of each schedule, by digest.
    """
    scores = ledger.scores(database, study_id, every_place=True)
    first = {s.evaluation_id: s for s in scores if s.place == 0}
    blocks = {block.number: block.block for block in ledger.spent_blocks(database, study_id)}
    found = {}
    for one in confirms:
        here = ledger.evaluations(database, study_id, block=f"{blocks[one.number]}/B")
        winners = {e.id for e in here if e.kind == "confirm"}
        seen = None if one.schedule is None else searched.get(one.schedule.digest)
        unit = 0.0 if one.baseline is None else one.baseline.value
        luck = None
        if seen is not None and one.winner is not None and unit > 0:
            luck = Luck.between(seen, one.winner)
        found[one.number] = ConfirmEvidence(
            controls=tuple(
                measured_of(database, e, first[e.id])
                for e in here
                if e.kind == "control" and e.id in first
            ),
            luck=None if luck is None else luck.luck / unit,
            luck_error=None if luck is None else luck.luck_error / unit,
            beside=tuple(
                Other.of(s) for s in scores if s.place > 0 and s.evaluation_id in winners
            ),
        )
    return found
