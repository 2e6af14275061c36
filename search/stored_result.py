"""The result of a study from its rows alone: no network is loaded, no array is read.

What `confirm.result_of` says of an open study, for whoever reads a study on a host that has
neither its files nor a device for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from skiptune.objectives.catalogue import CATALOGUE, IMAGE
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search.address_order import deepest_first
from skiptune.search.looks import measured_of, other_looks
from skiptune.search.luck import luck_of, rankings
from skiptune.search.overview import Confirmed, overview
from skiptune.search.result import HOPELESS, NO_GAIN, WIN, Measured, Result, is_win
from skiptune.search.space import EDGE
from skiptune.storage import ledger
from skiptune.storage.budgets import SEARCH_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.records import SECOND_PLACE, Evaluation, Score, Study

__all__ = ["stored_result"]

WINDOW = "window/"


def stored_result(database: Database, name: str) -> Result | None:
    """Return what the newest finished confirm of a study found.

    The number of prompts that errors count stands in the study's file of prompts, which is not
    read: `Result.prompts` is None.

    Arguments:
        database: Where the study lives.
        name: Its name.

    Returns:
        None before a confirm is finished. A search that has ended without anything to test has a
        result as well, one that is not `tested`.

    Raises:
        StorageError: There is no study of this name.
    """
    return _Rows(database, ledger.require_study(database, name)).result()


class _Rows:
    """The rows of one study, read once."""

    def __init__(self, database: Database, study: Study) -> None:
        self._database, self._study = database, study
        self._overview = overview(database, study.name)
        self._evaluations = ledger.evaluations(database, study.id)
        self._scores = ledger.scores(database, study.id)
        self._last = {s.evaluation_id: s for s in self._scores}  # by level, increasing
        rungs = study.spec["search"]["rungs"]
        self._screened = study.spec["objective"].get("projection") is not None and len(rungs) > 1

    def result(self) -> Result | None:
        finished = [one for one in self._overview.confirms if one.finished]
        if finished:
            return self._confirmed(finished[-1])
        nothing_open = self._overview.state == "complete" and not self._overview.confirms
        return self._untested() if nothing_open and not self._hopeful() else None

    def _confirmed(self, confirmed: Confirmed) -> Result | None:
        blocks = ledger.spent_blocks(self._database, self._study.id)
        spent = next(block for block in blocks if block.number == confirmed.number)
        names = [f"{spent.block}/{half}" for half in "AB"]
        first_a, here = ([e for e in self._evaluations if e.block == name] for name in names)
        base = next((e for e in here if e.kind == "baseline"), None)
        winner = next((e for e in here if e.kind == "confirm"), None)
        if base is None or base.id not in self._last:
            return None
        baseline = self._measured(base)
        tuned = None if winner is None or winner.id not in self._last else self._measured(winner)
        violated = () if winner is None or tuned is None else self._violated(winner)
        won = (
            tuned is not None
            and not violated
            and is_win(tuned, baseline, alpha=spent.alpha, min_gain=self._min_gain)
        )
        params: dict[str, float] = {} if winner is None else dict(winner.params)
        looks = {}
        if winner is not None:
            looks = other_looks(self._database, self._study.id, base, winner)
        return Result(
            **self._shared(),
            metric=self._last[base.id].metric,
            confirm=spent.number,
            alpha=spent.alpha,
            seeds=(first_a[0].first_seed, base.first_seed) if first_a else (base.first_seed,) * 2,
            baseline=baseline,
            winner=tuned,
            controls=tuple(
                self._measured(e) for e in here if e.kind == "control" and e.id in self._last
            ),
            schedule=Schedule.from_json(winner.schedule_json)
            if winner is not None and params
            else Schedule.baseline(),
            params=params,
            edges=self._edges(params) if params else (),
            verdict=WIN if won else NO_GAIN,
            violated=violated,
            second=looks.pop(SECOND_PLACE, None),
            parts=tuple(looks.values()),
            luck=None
            if winner is None or tuned is None
            else luck_of(
                self._database,
                self._study.id,
                winner,
                self._last[winner.id],
                screened=self._screened,
            ),
            rankings=rankings(
                self._database,
                self._study.id,
                names[0],
                rungs=self._study.spec["search"]["rungs"],
            ),
        )

    def _untested(self) -> Result | None:
        found = ledger.baseline_score(self._database, self._study.id)
        if found is None:
            return None
        baseline, score = found
        alpha = float(self._study.spec["confirm"]["alpha"])
        return Result(
            **self._shared(),
            metric=score.metric,
            confirm=1,
            alpha=alpha / 2,
            seeds=(baseline.first_seed, baseline.first_seed),
            baseline=measured_of(self._database, baseline, score),
            winner=None,
            controls=(),
            schedule=Schedule.baseline(),
            params={},
            edges=(),
            verdict=NO_GAIN,
            tested=False,
        )

    def _shared(self) -> dict[str, Any]:
        """Return what a result says whether anything was tested or not."""
        metric = self._study.spec["objective"]["metric"]
        spending = self._overview.spending
        return {
            "study": self._study.name,
            "setting": Setting.from_json(self._study.spec["setting"]),
            "min_gain": self._min_gain,
            "evaluations": self._overview.evaluations,
            "images": spending.images,
            "seconds": spending.seconds,
            "better": CATALOGUE[metric if isinstance(metric, str) else metric[0]].better,
            "unit": self._study.meaning.get("network.prompts.unit", IMAGE),
        }

    @property
    def _min_gain(self) -> float:
        return float(self._study.meaning["confirm.min_gain"])

    def _measured(self, one: Evaluation) -> Measured:
        return measured_of(self._database, one, self._last[one.id])

    def _hopeful(self) -> bool:
        """Return whether the search has anything that a confirm would test."""
        violated = self._violations()
        lasting = {e.id for e in self._of_the_search() if e.state not in ("diverged", "failed")}
        return any(
            key in lasting
            and score.difference is not None
            and score.difference <= HOPELESS * (score.difference_error or 0.0)
            and (key, score.level) not in violated
            for key, score in self._last.items()
        )

    def _of_the_search(self) -> list[Evaluation]:
        return [e for e in self._evaluations if (e.kind, e.block) == ("proposal", SEARCH_BLOCK)]

    def _violated(self, one: Evaluation) -> tuple[str, ...]:
        level = self._last[one.id].level
        return tuple(s.metric for s in self._violations().get((one.id, level), ()))

    def _violations(self) -> dict[tuple[str, int], list[Score]]:
        if not self._study.spec["objective"].get("constraints"):
            return {}
        found: dict[tuple[str, int], list[Score]] = {}
        for score in ledger.scores(self._database, self._study.id, every_place=True):
            if score.is_violated:
                found.setdefault((score.evaluation_id, score.level), []).append(score)
        return found

    def _edges(self, params: Mapping[str, float]) -> tuple[str, ...]:
        """Return the parameters that touch an end of their range, as `Space.edges` does."""
        found = []
        for name, text in self._study.board["distributions"].items():
            if name.startswith(WINDOW) or name not in params:
                continue
            ends = json.loads(text)["attributes"]
            low, high = float(ends["low"]), float(ends["high"])
            away = min(math.log(params[name] / low), math.log(high / params[name]))
            if away <= EDGE * math.log(high / low):
                found.append(name)
        return tuple(deepest_first(found))
