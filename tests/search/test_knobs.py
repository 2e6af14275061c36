"""Searched numbers of the setting: what they mean, what is refused, and a whole study of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from skiptune.errors import SpecError
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import KNOBS, Churn, Setting, sigmas
from skiptune.search.explanation import explain
from skiptune.search.export import tuned_of
from skiptune.search.knobs import SETTING_ALONE, knob_problems, knobs_of
from skiptune.search.scoring import stored_arrays
from skiptune.search.space import Space
from skiptune.search.space_section import SettingRanges, SpaceSpec
from skiptune.search.spec import StudySpec, difference
from skiptune.search.study import SEARCH, open_study
from skiptune.search.tune import run
from skiptune.storage import ledger
from tests.search.test_space import SKIPS

FULL = Setting(solver="euler", steps=4, guidance=2.0, churn=Churn(amount=1.0, noise=1.0))


def ranges(**given: Any) -> SettingRanges:
    return SettingRanges.model_validate(given)


def problems(setting: Setting, **given: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in knob_problems(ranges(**given), setting):
        found.setdefault(problem.where.removeprefix("space.setting."), []).append(problem.expected)
    return found


def spec(**space: Any) -> StudySpec:
    return StudySpec.from_json(
        {
            "study": "s",
            "network": {"checkpoint": "fashion"},
            "space": space,
            "objective": {"extractor": "fashion-cnn", "reference": "fashion-train"},
            "search": {"sampler": "tpe", "rungs": [500, 1000]},
            "confirm": {"images": 500},
        },
        source="study.yaml",
    )


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_is_a_number_of_the_setting(name: str) -> None:
    setting = replace(FULL, solver="dpmpp_2m_sde", churn=Churn()) if name == "eta" else FULL
    own = setting.knob(name)
    moved = setting.with_knobs({name: own * 1.1})
    assert moved.knob(name) == own * 1.1
    assert moved.with_knobs({name: own}) == setting
    assert [other for other in KNOBS if moved.knob(other) != setting.knob(other)] == [name]
    (knob,) = knobs_of(ranges(**{name: [own / 2, own * 2]}), setting)
    assert (knob.param, knob.low, knob.high, knob.own) == (
        f"setting/{name}", own / 2, own * 2, own,
    )  # fmt: skip
    assert problems(setting, **{name: [own / 2, own * 2]}) == {}
    with pytest.raises(SpecError, match="one of epsilon_scale"):
        setting.with_knobs({"steps": 3})


@pytest.mark.parametrize("kind", ["none", "linear"])
def test_a_space_of_knobs(kind: str) -> None:
    setting = Setting(steps=6, exponent=5.0)
    section = SpaceSpec(kind=kind, setting=ranges(epsilon_scale=[0.98, 1.04], exponent=[4, 9]))
    space = Space.of(section, SKIPS, sigmas(setting), setting=setting)
    names = ["setting/epsilon_scale", "setting/exponent"]
    scales = [] if kind == "none" else ["bottom", "top"]
    assert list(space.distributions()) == [*scales, *names]
    own = space.baseline_params()
    assert own == {**dict.fromkeys(scales, 1.0), names[0]: 1.0, names[1]: 5.0}
    # The baseline is the study's own setting: nothing is said of it.
    assert space.schedule(own) == Schedule.baseline()
    moved = space.schedule({**own, names[0]: 1.02})
    assert moved == Schedule(knobs={"epsilon_scale": 1.02})
    assert setting.with_knobs(moved.knobs) == replace(setting, epsilon_scale=1.02)
    assert not moved.is_baseline and not moved.terms
    assert space.edges({**own, names[1]: 4.0}) == (names[1],)
    with pytest.raises(SpecError, match=r"a number from 4\.0 to 9\.0"):
        space.schedule({**own, names[1]: 3.0})


def test_schedules_keep_knobs_and_their_identity() -> None:
    plain = Schedule.uniform({"a": 0.7})
    tuned = Schedule(plain.terms, knobs={"exponent": 5, "epsilon_scale": 1.02})
    assert "knobs" not in plain.to_json()
    assert tuned.to_json()["knobs"] == {"epsilon_scale": 1.02, "exponent": 5.0}
    again = Schedule.from_json(json.loads(json.dumps(tuned.to_json())))
    assert again == tuned and hash(again) == hash(tuned) and again.digest == tuned.digest
    assert tuned != plain and tuned.scales_alone == plain
    assert len({one.digest for one in (plain, tuned, Schedule(knobs={"exponent": 5.0}))}) == 3
    assert "exponent" in repr(tuned)
    for knobs in ({"steps": 3.0}, {"exponent": 0.0}, {"exponent": "5"}, {"eta": True}, [1]):
        with pytest.raises(SpecError, match="schedule: knobs"):
            Schedule.from_json({"terms": [], "knobs": knobs})


def test_what_does_not_apply_is_refused_all_at_once() -> None:
    found = problems(
        Setting(grid="logsnr"),
        epsilon_scale=[1.01, 1.04], exponent=[4, 9], guidance=[1.5, 4], eta=[0.5, 2],
        churn_noise=[0.9, 1.1],
    )  # fmt: skip
    assert list(found) == ["epsilon_scale", "exponent", "guidance", "eta", "churn_noise"]
    for name, words in {
        "epsilon_scale": "the study's own 1",
        "exponent": "grid edm, not logsnr",
        "guidance": "double the cost",
        "eta": "only dpmpp_2m_sde",
        "churn_noise": "setting.churn.amount is 0",
    }.items():
        assert words in found[name][0]
    listed = Setting(steps=2, sigmas=(9.0, 1.0))
    assert "one by one" in problems(listed, sigma_max=[40, 100])["sigma_max"][0]
    interval = replace(FULL, guidance_low=0.5)
    assert "in an interval" in problems(interval, exponent=[4, 9])["exponent"][0]
    assert (
        "values that can be followed" in problems(Setting(), sigma_max=[0.001, 80])["sigma_max"][0]
    )
    (lost,) = knob_problems(ranges(exponent=[4, 9]), Setting(), samples=False)
    assert "no metric of this objective" in lost.expected


def test_a_network_is_asked_for_the_whole_range() -> None:
    class Shallow(nn.Module):
        img_channels, img_resolution, label_dim = 1, 8, 0
        sigma_min, sigma_max = 0.002, 80.0

        def round_sigma(self, sigma: torch.Tensor) -> torch.Tensor:
            return (sigma * 2).round() / 2

    setting = Setting(steps=3, sigma_min=0.5)
    for given, words in (([40, 100], "80.0 or less"), ([1.0, 80.0], "stay apart")):
        found = knob_problems(ranges(sigma_max=given), setting, network=Shallow())
        assert [words in problem.expected for problem in found] == [True]


def test_studies_without_knobs_keep_what_is_stored_of_them() -> None:
    plain = spec()
    assert "setting" not in plain.to_json()["space"]
    assert not any(key.startswith("space.setting") for key in plain.meaning())
    one = spec(setting={"exponent": [4, 9]})
    assert StudySpec.from_json(one.to_json()) == one
    assert one.to_json()["space"]["setting"] == {"exponent": [4.0, 9.0]}
    assert one.meaning()["space.setting.exponent"] == [4.0, 9.0]
    where = [problem.where for problem in difference(plain.meaning(), one.meaning())]
    assert where == ["space.setting.exponent"]


@pytest.mark.parametrize(
    ("space", "where", "expected"),
    [
        ({"kind": "none"}, "space.setting", "because kind none has no scales"),
        ({"setting": {}}, "space.setting", "a range of one of"),
        ({"setting": {"exponent": [9, 4]}}, "space.setting.exponent", "the smaller one first"),
        ({"setting": {"exponent": [0, 4]}}, "space.setting.exponent[0]", "two numbers above 0"),
        ({"setting": {"exponent": 4}}, "space.setting.exponent", "[LOW, HIGH]"),
        ({"setting": {"step": [4, 9]}}, "space.setting.step", "one of epsilon_scale"),
        (
            {"setting": {"exponent": [4, 9]}, "window": "search"},
            "space.setting.exponent",
            "a grid that it would move",
        ),
        (
            {"kind": "none", "setting": {"exponent": [4, 9]}, "part": "shortcut"},
            "space.part",
            "kind none scales no skip",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_key(
    space: dict[str, Any], where: str, expected: str
) -> None:
    with pytest.raises(SpecError) as caught:
        spec(**space)
    (problem,) = caught.value.problems
    assert problem.where == f"study.yaml: {where}"
    assert expected in problem.expected


@pytest.mark.parametrize("sampler", ["descent", "moments"])
def test_samplers_that_know_scales_alone_are_refused(sampler: str) -> None:
    plain = spec(setting={"exponent": [4, 9]}).to_json()
    plain["search"]["sampler"] = sampler
    with pytest.raises(SpecError, match=r"space\.setting is searched"):
        StudySpec.from_json(plain)


def test_a_whole_study(tiny_study: ModuleType, study_folder: Path) -> None:
    knobs = {"epsilon_scale": [0.9, 1.25], "exponent": [4, 12]}
    made = tiny_study.spec(
        study_folder,
        space={"kind": "uniform", "low": 0.9, "high": 1.1, "setting": knobs},
        search={"sampler": "random", "evaluations": 4, "rungs": [250]},
    )
    study = open_study(made, storage=f"sqlite:///{study_folder / 'knobs.db'}")
    result = run(study)
    assert result is not None
    proposals = ledger.evaluations(study.database, study.id, kind="proposal", block=SEARCH)
    assert len(proposals) == 4
    for one in proposals:
        schedule = Schedule.from_json(one.schedule_json)
        assert set(schedule.knobs) == set(knobs)
        assert {f"setting/{k}": v for k, v in schedule.knobs.items()}.items() <= one.params.items()
    # Its images are those of its own setting, with the noise of every other evaluation.
    schedule = Schedule.from_json(proposals[0].schedule_json)
    own = study.setting.with_knobs(schedule.knobs)
    with scaled(study.checkpoint.network, schedule):
        (first, *_) = sample(
            study.checkpoint.network, own, range(1_000_000, 1_000_125), microbatch=125
        )
    stored = stored_arrays(study, ledger.chunks_of(study.database, proposals[0].id)[0])
    assert np.array_equal(stored["features"][:125], study.extractor(first.images).numpy())

    # Is it the skips? The winner's setting with untouched ones has a row of its own.
    assert result.winner is not None and result.schedule.knobs
    (row,) = result.controls
    assert row.label == SETTING_ALONE and row.difference is not None
    assert row.value != result.winner.value
    tuned = tuned_of(study, result)
    assert tuned.setting.to_setting() == study.setting.with_knobs(result.schedule.knobs)
    assert tuned.schedule == result.schedule.scales_alone
    assert tuned.untouched_setting is not None
    assert tuned.untouched_setting.to_setting() == study.setting
    assert tuned.knobs == result.schedule.knobs
    told = explain(study.database, study.spec.study)
    assert "uniform, 1 scale" in told.space and "exponent of the setting" in told.space
    assert {one.name for one in told.parameters} <= set(study.space.distributions())
    study.database.close()
