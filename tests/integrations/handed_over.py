"""A `tuned.json` as skiptune hands it over, for a network and a schedule of a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import find_skips
from skiptune.search.evidence import Measure, Provenance, Score, SeedBlock, Verdict
from skiptune.search.tuned import Tuned, TunedNetwork

SHA = "0123456789abcdef" * 4


def tuned_of(
    network: nn.Module,
    schedule: Schedule,
    *,
    setting: Setting | None = None,
    untouched: Setting | None = None,
) -> Tuned:
    """Return the document of a schedule of a network."""
    setting = Setting(solver="euler", steps=4) if setting is None else setting
    score = Score(
        label="baseline",
        images=2000,
        nfe=4.0,
        value=5.8,
        standard_error=0.1,
        interval=(5.604, 5.996),
    )
    return Tuned.of(
        schedule,
        skips=find_skips(network),
        study="portraits",
        network=TunedNetwork(name="tiny", sha256=SHA),
        setting=setting.to_json(),
        untouched_setting=None if untouched is None else untouched.to_json(),
        verdict=Verdict(verdict="win", gain=9.7, interval=(5.5, 13.9), alpha=0.025),
        measure=Measure(metric="FD(made-up)-2k", extractor="made-up", extractor_sha256=SHA),
        baseline=score,
        tuned=score.model_copy(update={"label": "tuned"}),
        seeds={"B": SeedBlock(first=2_150_000, images=2000)},
        provenance=Provenance(skiptune="0.1.0", created="2026-11-23T21:00:00Z"),
    )


def write_tuned(path: Path, network: nn.Module, schedule: Schedule, **sections: Any) -> Path:
    """Write that document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tuned_of(network, schedule, **sections).write(path, force=True)
    return path


def damage(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the plain data of a file as a hand would."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def schedules(addresses: list[str]) -> dict[str, Schedule]:
    """Return schedules of every kind that scales whole skips, of four skips."""
    first, second, third, fourth = addresses
    windowed = [
        Term(first, 0.6, 1.0, 20.0),
        Term(first, 1.2, 20.0),
        Term(second, 0.0, 0.0, 2.0),
        Term(fourth, 1.4),
    ]
    static = {first: 0.6, second: 1.3, third: 0.8, fourth: 1.1}
    return {
        "static": Schedule.uniform(static),
        "windowed": Schedule(windowed),
        "one": Schedule.uniform({third: 0.7}),
        "cond": Schedule(windowed, branches="cond"),
        "uncond": Schedule.uniform(static, branches="uncond"),
    }
