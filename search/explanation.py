"""What a study has done and found, told at any time of its life, from its rows alone.

Without a network: images per rung, the gain over images, what each scale does, a slice of the
landscape through what was measured, what was confirmed, and what may be done next. The prediction
along the slice needs the stored features, and so an open study (`line_slice.predicted`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skiptune.errors import StorageError
from skiptune.search.address_order import deepest_first
from skiptune.search.artifacts import required_store
from skiptune.search.confirm_evidence import ConfirmEvidence, confirm_evidence
from skiptune.search.incumbents import RungCount, Step, rung_counts_of, steps_of
from skiptune.search.line_slice import Point, Prediction, place_on
from skiptune.search.overview import Overview, overview, proposer
from skiptune.search.sensitivities import (
    Sensitivities,
    from_scores,
    from_slopes,
    importances,
)
from skiptune.search.slope_map import Slopes
from skiptune.search.space import EDGE
from skiptune.storage import ledger
from skiptune.storage.budgets import SEARCH_BLOCK, SLOPES_BLOCK
from skiptune.storage.database import Database
from skiptune.storage.records import CHUNK, Evaluation, Score, Study

__all__ = ["Explanation", "Parameter", "explain"]

FEWEST_MODELLED = 4  # the baseline and three schedules
PER_SKIP = "skip/"
WINDOW = "window/"
NO_SCALES = (WINDOW, "setting/")  # parameters that scale no skip begin so


@dataclass(frozen=True)
class Parameter:
    """A parameter of the best schedule.

    Arguments:
        name: In the search space.
        value: Of the best schedule so far.
        low: Smallest value that is searched.
        high: Largest.
        edge: ``low`` or ``high`` where the value touches that end, else nothing.
        importance: How much it decides who is among the best, 0 to 1; None with few schedules.
    """

    name: str
    value: float
    low: float
    high: float
    edge: str
    importance: float | None


@dataclass(frozen=True)
class Explanation:
    """What a study has done and found.

    Arguments:
        overview: Where it stands.
        space: What is searched, in words.
        setting: The setting's plain data.
        sampler: Who proposes (`overview.proposer`).
        rungs: What came of each rung.
        steps: Every score of the search, in order; empty before the baseline has its own.
        sensitivities: What each scale does.
        parameters: Of the best schedule; empty before there is one.
        points: Evaluated schedules beside the line to the best one; empty without a line.
        prediction: What the model says along the line, None where it was not asked.
        no_prediction: Why it was not, or nothing.
        unserved: Why the model cannot serve this study, or nothing where it can.
        evidence: What stands beside the verdict of each confirm, by its number.
        min_gain: The least gain that counts, a fraction.
        sloped: Whether `skiptune sensitivity` can measure slopes of the objective.
        failed: Evaluations of the search that have lost their chunks three times.
    """

    overview: Overview
    space: str
    setting: Mapping[str, Any]
    sampler: str
    rungs: tuple[RungCount, ...]
    steps: tuple[Step, ...]
    sensitivities: Sensitivities
    parameters: tuple[Parameter, ...]
    points: tuple[Point, ...]
    prediction: Prediction | None
    no_prediction: str
    unserved: str
    evidence: Mapping[int, ConfirmEvidence]
    min_gain: float
    sloped: bool
    failed: int

    @property
    def edges(self) -> tuple[Parameter, ...]:
        """Parameters of the best schedule that touch an end of their range."""
        return tuple(one for one in self.parameters if one.edge)

    def is_inside(self, place: float) -> bool:
        """Return whether a place on the line of the slice lies in the range that is searched."""
        return all(
            one.low <= math.exp(place * math.log(one.value)) <= one.high
            for one in self.parameters
            if not one.name.startswith(WINDOW)
        )

    @property
    def best_params(self) -> dict[str, float]:
        """What the best schedule's parameters are."""
        return {one.name: one.value for one in self.parameters}

    def with_prediction(self, prediction: Prediction | None, why: str = "") -> Explanation:
        """Return the explanation with what the model says, or why it says nothing."""
        return replace(self, prediction=prediction, no_prediction=why)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        plain = asdict(self)
        plain["overview"] = self.overview.to_json()
        return plain


def explain(database: Database, name: str, *, artifacts: str | Path | None = None) -> Explanation:
    """Return what a study has done and found; nothing is written and no network is loaded.

    Arguments:
        database: Where the study lives.
        name: Its name.
        artifacts: Where per-image arrays are, for slopes that were taken; by default as for
            `open_study`.

    Raises:
        StorageError: There is no study of this name.
    """
    return _Reader(database, ledger.require_study(database, name), artifacts).explanation()


class _Reader:
    """The rows of one study, read once."""

    def __init__(self, database: Database, study: Study, artifacts: str | Path | None) -> None:
        self._database = database
        self._study = study
        self._artifacts = artifacts
        self._overview = overview(database, study.name)
        self._scores = ledger.scores(database, study.id)
        self._proposals = {
            e.id: e
            for e in ledger.evaluations(database, study.id, kind="proposal", block=SEARCH_BLOCK)
        }
        found = ledger.baseline_score(database, study.id)
        # A screen measures its rung in other features: its gains are of another unit.
        screened = (
            study.meaning.get("objective.projection") is not None
            and len(study.meaning["search.rungs"]) > 1
        )
        self._lowest = int(screened)  # the first rung in the features of the baseline's value
        self._whole = [
            s
            for s in self._scores
            if s.level >= self._lowest or s.evaluation_id not in self._proposals
        ]
        self._baseline: Score | None = None
        if found is not None and found[1].value > 0:
            self._baseline = found[1]

    def explanation(self) -> Explanation:
        spec = self._study.spec
        steps: tuple[Step, ...] = ()
        if self._baseline is not None:
            steps = steps_of(
                self._proposals,
                self._whole,
                baseline=self._baseline,
                violating=self._violating(),
            )
        parameters = self._parameters()
        points = self._points(parameters)
        return Explanation(
            overview=self._overview,
            space=_space_text(spec["space"], self._ranges()),
            setting=spec["setting"],
            sampler=proposer(self._study),
            rungs=self._rungs(spec["search"]["rungs"]),
            steps=steps,
            sensitivities=self._sensitivities(),
            parameters=parameters,
            points=points,
            prediction=None,
            no_prediction="",
            unserved=_unserved(spec, points),
            evidence=self._evidence(),
            min_gain=float(self._study.meaning["confirm.min_gain"]),
            sloped=_sloped(spec),
            failed=self._overview.states.get("failed", 0),
        )

    def _violating(self) -> set[tuple[str, int]]:
        """Return evaluation and level of the scores that violate a constraint."""
        if not self._study.spec["objective"].get("constraints"):
            return set()
        every = ledger.scores(self._database, self._study.id, every_place=True)
        return {(s.evaluation_id, s.level) for s in every if s.is_violated}

    def _ranges(self) -> dict[str, tuple[float, float]]:
        """Return the smallest and the largest value of each parameter."""
        texts = self._study.board["distributions"]  # as JSON keeps them: by name
        return {
            name: (float(item["attributes"]["low"]), float(item["attributes"]["high"]))
            for name in deepest_first(texts)
            for item in (json.loads(texts[name]),)
        }

    def _scales(self) -> list[str]:
        return [name for name in self._ranges() if not name.startswith(NO_SCALES)]

    def _rungs(self, sizes: Sequence[int]) -> tuple[RungCount, ...]:
        reused = ledger.reused_chunks(self._database, self._study.id, block=SEARCH_BLOCK)
        return rung_counts_of(
            sizes,
            ledger.rungs(self._database, self._study.id),
            self._scores,
            proposals=self._proposals,
            reused=reused,
        )

    def _first_rung(self) -> tuple[list[Evaluation], NDArray[np.float64]]:
        """Return the proposals that the first rung, but for a screen, has scored, and gains."""
        assert self._baseline is not None
        found = [
            (self._proposals[s.evaluation_id], -s.difference / self._baseline.value)
            for s in self._scores
            if s.level == self._lowest
            and s.evaluation_id in self._proposals
            and s.difference is not None
        ]
        return [one for one, _ in found], np.array([gain for _, gain in found])

    def _logs(self, ones: Sequence[Evaluation]) -> NDArray[np.float64]:
        names = self._scales()
        rows = [[math.log(one.params[name]) for name in names] for one in ones]
        return np.array(rows).reshape(len(ones), len(names))

    def _sensitivities(self) -> Sensitivities:
        if self._baseline is None:
            return Sensitivities("nothing", "the baseline has no value above zero yet")
        taken = [
            one
            for one in ledger.evaluations(
                self._database, self._study.id, kind="slopes", block=SLOPES_BLOCK
            )
            if one.state == "complete"
        ]
        if taken:
            return self._from_slopes(taken)
        ones, gains = self._first_rung()
        return from_scores(self._logs(ones), gains, self._scales())

    def _from_slopes(self, taken: Sequence[Evaluation]) -> Sensitivities:
        """Return what the newest slopes say, those of the best schedule where there are some."""
        assert self._baseline is not None
        best = self._overview.best
        digests = {one.schedule: one for one in taken}
        leader = None
        if best is not None:
            leader = next(e for e in self._proposals.values() if e.number == best.number)
        chosen = taken[-1]
        if leader is not None and leader.schedule in digests:
            chosen = digests[leader.schedule]
        chunks = ledger.chunks_of(self._database, chosen.id)
        block = int(ledger.description(self._database, chosen.measure)["block"])
        try:
            store = required_store(self._database, self._artifacts)
            arrays = [store.read(str(chunk.array)) for chunk in chunks]
        except StorageError as error:
            problem = error.problems[0]
            where = f"{problem.where}: {problem.found}"
            return Sensitivities("nothing", f"{chosen.label} are not here ({where})")
        slopes = Slopes.of_chunks(
            arrays,
            together=block // CHUNK,
            nfe=sum((chunk.nfe or 0.0) * chunk.images for chunk in chunks),
        )
        count = slopes.blocks.shape[1]
        bounds = [
            (low, math.inf if high is None else high)
            for low, high in self._study.board.get("intervals", ())
        ]
        names = [name.removeprefix(PER_SKIP) for name in self._scales()]
        if bounds:  # one name for each interval, the noisiest first
            names = [name.removesuffix("@0") for name in names if name.endswith("@0")]
        if self._study.spec["space"]["kind"] != "per-skip" or len(names) != count:
            # Which parts of them are scaled stands in the space, which needs the network.
            names = list(self._study.board.get("skips", ()))
            if len(names) != count:
                places = range(1, count + 1)
                names = [f"skip {place} of {count}, deepest first" for place in places]
        of = chosen.label.removeprefix("slopes of ")
        return from_slopes(slopes, names, baseline=self._baseline.value, of=of, bounds=bounds)

    def _parameters(self) -> tuple[Parameter, ...]:
        best = self._overview.best
        if best is None:
            return ()
        ones, gains = self._first_rung() if self._baseline is not None else ([], np.zeros(0))
        known = self._importances(ones, gains)
        found = []
        for name, (low, high) in self._ranges().items():
            value = float(best.params[name])
            edge = "" if name.startswith(WINDOW) else _edge(value, low, high)
            found.append(Parameter(name, value, low, high, edge, known.get(name)))
        return tuple(found)

    def _importances(
        self, ones: Sequence[Evaluation], gains: NDArray[np.float64]
    ) -> dict[str, float]:
        if not len(ones):
            return {}
        from optuna.distributions import json_to_distribution

        distributions = {
            name: json_to_distribution(text)
            for name, text in self._study.board["distributions"].items()
        }
        return importances([one.params for one in ones], (-gains).tolist(), distributions)

    def _points(self, parameters: Sequence[Parameter]) -> tuple[Point, ...]:
        scales = [one for one in parameters if not one.name.startswith(NO_SCALES)]
        end = np.log([one.value for one in scales])
        if self._baseline is None or not np.any(end):
            return ()
        last = {
            s.evaluation_id: s
            for s in self._whole  # by level, increasing
            if s.evaluation_id in self._proposals and s.difference is not None
        }
        unit = self._baseline.value
        points = [Point(0, 0.0, 0.0, 0.0, 0.0)]
        for key, score in last.items():
            one = self._proposals[key]
            place, away = place_on(end, self._logs([one])[0])
            gain, error = -(score.difference or 0.0), score.difference_error or 0.0
            points.append(Point(one.number, place, away, gain / unit, error / unit))
        return tuple(points)

    def _evidence(self) -> dict[int, ConfirmEvidence]:
        if self._baseline is None:
            return {}
        searched = {
            self._proposals[s.evaluation_id].schedule: s
            for s in self._whole  # by level, increasing
            if s.evaluation_id in self._proposals
        }
        return confirm_evidence(
            self._database,
            self._study.id,
            self._overview.confirms,
            searched=searched,
        )


def _edge(value: float, low: float, high: float) -> str:
    """Return which end a value touches: `space.EDGE` of the log range, as a confirm tells it."""
    margin = EDGE * math.log(high / low)
    if math.log(value / low) <= margin:
        return "low"
    return "high" if math.log(high / value) <= margin else ""


def _space_text(space: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> str:
    scales = sum(not name.startswith(NO_SCALES) for name in ranges)
    text = f"{space['kind']}, {scales} scale{'s' if scales > 1 else ''} "
    text += f"from {space['low']:g} to {space['high']:g}"
    if space.get("skips", "all") != "all":
        text += f" on {len(space['skips'])} skips"
    if space.get("setting"):
        text += f", and {', '.join(space['setting'])} of the setting"
    if space.get("part", "both") != "both":
        text += f", {space['part']} part of the blocks"
    window = space.get("window")
    if window == "search":
        return f"{text}, in a searched window"
    if window:
        return f"{text}, at grid points {window['first']} to {window['last']}"
    return text


def _unserved(spec: Mapping[str, Any], points: Sequence[Point]) -> str:
    """Return why the moment model cannot serve a study, or nothing where it can."""
    metric = spec["objective"]["metric"]
    if ([metric] if isinstance(metric, str) else list(metric)) != ["fd"]:
        return "the model is one of the Frechet distance alone"
    if spec["space"].get("window") == "search":
        return "the model is one of scales, and the window is searched"
    if spec["space"].get("setting"):
        return "the model is one of scales, and the setting's numbers are searched"
    if len(points) < FEWEST_MODELLED:
        return "fewer than three schedules are scored"
    return ""


def _sloped(spec: Mapping[str, Any]) -> bool:
    """Whether the objective has slopes, as far as its spec tells."""
    from skiptune.objectives.cotangents import SLOPED

    metric = spec["objective"]["metric"]
    metrics = [metric] if isinstance(metric, str) else list(metric)
    return len(metrics) == 1 and metrics[0] in SLOPED and not spec["objective"].get("constraints")
