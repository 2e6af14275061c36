from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skiptune.errors import NetworkError, OutputError, SpecError
from skiptune.sampling.networks import build
from skiptune.sampling.schedule import BRANCHES, PARTS, Schedule, Term
from skiptune.sampling.setting import Churn, Setting
from skiptune.sampling.skips import Skip, find_skips
from skiptune.search.evidence import Measure, Provenance, Score, SeedBlock, Verdict
from skiptune.search.tuned import Tuned, TunedNetwork, json_schema, load

SHA = "0123456789abcdef" * 4

CONFIG: dict[str, Any] = {
    "precond": "edm",
    "sigma_data": 0.5,
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 0,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [],
}


def make_network(**changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    network = build({**CONFIG, **changes}).eval()
    for parameter in network.parameters():
        # Untrained networks end in zeros, under which no scale would show.
        torch.nn.init.normal_(parameter, std=0.3)
    return network.requires_grad_(False)


SKIPS = find_skips(make_network())
SCALES = {skip.address: 0.8 + 0.1 * skip.index for skip in SKIPS}


def make_tuned(
    schedule: Schedule | None = None,
    skips: tuple[Skip, ...] = SKIPS,
    *,
    guidance: float = 1.0,
) -> Tuned:
    score = Score(
        label="baseline",
        images=2000,
        nfe=6.0,
        value=5.8,
        standard_error=0.1,
        interval=(5.604, 5.996),
    )
    return Tuned.of(
        Schedule.uniform(SCALES) if schedule is None else schedule,
        skips=skips,
        study="fashion",
        network=TunedNetwork(name="fashion", sha256=SHA),
        setting=Setting(
            solver="heun", churn=Churn(amount=1.5, high=50.0), guidance=guidance
        ).to_json(),
        verdict=Verdict(verdict="win", gain=9.7, interval=(5.5, 13.9), alpha=0.025),
        measure=Measure(
            metric="FD(fashion-cnn)-2k-corrected",
            extractor="fashion-cnn",
            extractor_sha256=SHA,
            reference="fashion-train",
            reference_sha256=SHA,
        ),
        baseline=score,
        tuned=score.model_copy(update={"label": "tuned", "difference": -0.56}),
        controls=[score.model_copy(update={"label": "epsilon scale 1.01"})],
        seeds={
            "search": SeedBlock(first=1_000_000, images=2000),
            "A": SeedBlock(first=2_100_000, images=2000),
            "B": SeedBlock(first=2_150_000, images=2000),
        },
        provenance=Provenance(
            skiptune="0.1.0", created="2026-11-23T21:00:00Z", versions={"torch": "2.15.0"}
        ),
    )


def damaged(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return the plain data of a good file after a change."""
    values: dict[str, Any] = json.loads(json.dumps(make_tuned().to_json()))
    change(values)
    return values


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    terms: list[Term] = []
    parts = draw(st.sets(st.sampled_from(PARTS), min_size=1, max_size=2))
    for skip, part in itertools.product(SKIPS, sorted(parts)):
        scale = st.just(0.0) | st.floats(0.01, 10)
        if draw(st.booleans()):
            terms.append(Term(skip.address, draw(scale), part=part))
            continue
        edges = sorted(draw(st.sets(st.floats(0, 100), min_size=2, max_size=5)))
        for low, high in zip(edges, [*edges[1:], math.inf], strict=True):
            terms.append(Term(skip.address, draw(scale), low, high, part))
    return Schedule(terms)


@given(schedule=schedules())
def test_any_schedule_survives_the_file(schedule: Schedule) -> None:
    tuned = make_tuned(schedule)
    assert tuned.schedule == schedule
    text = json.dumps(tuned.to_json(), allow_nan=False)
    again = Tuned.from_json(json.loads(text))
    assert again == tuned
    assert again.schedule.digest == schedule.digest == again.schedule_sha256


def test_writing_and_loading_keep_everything(tmp_path: Path) -> None:
    tuned = make_tuned()
    tuned.write(tmp_path / "tuned.json")
    again = load(tmp_path / "tuned.json")
    assert again == tuned
    assert again.setting.to_setting() == Setting(solver="heun", churn=Churn(1.5, high=50.0))
    with pytest.raises(OutputError, match="an existing file"):
        tuned.write(tmp_path / "tuned.json")
    tuned.write(tmp_path / "tuned.json", force=True)


def test_the_file_has_one_row_per_skip_also_untouched_ones() -> None:
    first = SKIPS[0].address
    rows = make_tuned(Schedule([Term(first, 0.7, 0.5, 2.0)])).to_json()["skips"]
    assert [row["address"] for row in rows] == [skip.address for skip in SKIPS]
    assert rows[0]["windows"] == [{"low": 0.5, "high": 2.0, "scale": 0.7}]
    assert [row["scale"] for row in rows] == [1.0] * len(SKIPS)
    assert all(row["windows"] == [] for row in rows[1:])
    rows = make_tuned(Schedule([Term(first, 0.7)])).to_json()["skips"]
    assert (rows[0]["scale"], rows[0]["windows"]) == (0.7, [])
    assert rows[0]["skip_channels"] == SKIPS[0].skip_channels


def test_parts_of_blocks_are_written_where_they_are_scaled() -> None:
    first = SKIPS[0].address
    plain = make_tuned().to_json()["skips"]
    assert not any("parts" in row for row in plain)
    terms = [Term(first, 0.7, part="shortcut"), Term(first, 0.9, 0.5, 2.0, "residual")]
    tuned = make_tuned(Schedule(terms))
    rows = tuned.to_json()["skips"]
    assert (rows[0]["scale"], rows[0]["windows"]) == (1.0, [])
    assert rows[0]["parts"] == [
        {"part": "shortcut", "scale": 0.7, "windows": []},
        {
            "part": "residual",
            "scale": 1.0,
            "windows": [{"low": 0.5, "high": 2.0, "scale": 0.9}],
        },
    ]
    assert all("parts" not in row for row in rows[1:])
    assert tuned.schedule == Schedule(terms)


@pytest.mark.parametrize("branches", BRANCHES)
def test_branches_are_kept_where_they_are_not_both(branches: str, tmp_path: Path) -> None:
    schedule = Schedule.uniform(SCALES, branches=branches)
    tuned = make_tuned(schedule, guidance=2.0)
    tuned.write(tmp_path / "tuned.json")
    again = load(tmp_path / "tuned.json")
    assert again == tuned
    assert again.schedule == schedule
    assert again.schedule_sha256 == schedule.digest
    plain = tuned.to_json()
    assert ("branches" in plain) == (branches != "both")
    for other in BRANCHES:
        if other != branches:
            with pytest.raises(SpecError, match="edited by hand"):
                Tuned.from_json({**plain, "branches": other})
    plain["setting"]["guidance"] = 1.0
    if branches != "both":
        with pytest.raises(SpecError, match="branches: expected both: without guidance"):
            Tuned.from_json(plain)


def test_schedules_of_other_skips_are_refused() -> None:
    with pytest.raises(SpecError) as caught:
        make_tuned(Schedule([Term("64x64_block0", 0.7)]))
    (problem,) = caught.value.problems
    assert problem.where == "schedule: 64x64_block0"
    assert SKIPS[0].address in problem.expected


@pytest.mark.parametrize(
    ("change", "where", "expected"),
    [
        (lambda v: v["skips"][0].update(scale=-0.5), "skips[0].scale", "at least 0"),
        (lambda v: v["skips"][0].update(scale=math.nan), "skips[0].scale", "at least 0"),
        (lambda v: v["skips"][0].update(scale=math.inf), "skips[0].scale", "at least 0"),
        (lambda v: v["skips"][0].update(scale="0.5"), "skips[0].scale", "at least 0"),
        (lambda v: v["skips"][0].update(scale=0.51), "schedule_sha256", "edited by hand"),
        (lambda v: v["skips"][0].pop("scale"), "skips[0].scale", "at least 0"),
        (lambda v: v["skips"][0].update(scales=1), "skips[0].scales", "did you mean `scale`?"),
        (
            lambda v: v["skips"][0].update(parts=[{"part": "shortcuts", "scale": 0.5}]),
            "skips[0].parts[0].part",
            "did you mean `shortcut`?",
        ),
        (
            lambda v: v["skips"][0].update(parts=[{"part": "shortcut", "scale": 0.5}] * 2),
            "skips[0].parts",
            "each part once",
        ),
        (
            lambda v: v["skips"][0].update(parts=[{"part": "shortcut", "scale": 0.5}]),
            "schedule_sha256",
            "edited by hand",
        ),
        (lambda v: v["skips"].pop(0), "skips[0].index", "every skip once"),
        (lambda v: v["skips"].pop(1), "skips[1].index", "every skip once"),
        (lambda v: v["skips"].pop(), "schedule_sha256", "the hash of the rows"),
        (lambda v: v["skips"].clear(), "skips", "every skip of the network"),
        (lambda v: v["skips"].reverse(), "skips[0].index", "deepest first"),
        (
            lambda v: v["skips"][1].update(address=v["skips"][0]["address"]),
            "skips[1].address",
            "stands here once",
        ),
        (
            lambda v: v["skips"][0].update(windows=[{"low": 1.0, "high": 2.0, "scale": 0.5}]),
            "skips[0].windows",
            "where `scale` is not 1",
        ),
        (
            lambda v: v["skips"][0].update(
                scale=1.0,
                windows=[
                    {"low": 1.0, "high": 3.0, "scale": 0.5},
                    {"low": 2.0, "high": None, "scale": 0.6},
                ],
            ),
            "skips[0].windows",
            "do not overlap",
        ),
        (
            lambda v: v["skips"][0].update(
                scale=1.0, windows=[{"low": 3.0, "high": 2.0, "scale": 0.5}]
            ),
            "skips[0].windows",
            "low <= high",
        ),
        (lambda v: v.update(schedule_sha256="a" * 64), "schedule_sha256", "the hash of the rows"),
        (lambda v: v.update(branches="all"), "branches", "one of both, cond, uncond"),
        (lambda v: v.update(branches="cond"), "branches", "without guidance"),
        (lambda v: v["network"].update(sha256="abc"), "network.sha256", "64 lower-case"),
        (lambda v: v["setting"].update(steps=0), "setting.steps", "from 1 to 1000"),
        (lambda v: v["setting"].update(solver="huen"), "setting.solver", "did you mean `heun`?"),
        (lambda v: v["verdict"].update(verdict="maybe"), "verdict.verdict", "win, no significant"),
        (lambda v: v["verdict"].update(gain=None), "verdict.gain", "carries its evidence"),
        (lambda v: v["verdict"].update(interval=[-1, 3]), "verdict.interval", "above 0 for a win"),
        (
            lambda v: v["verdict"].update(interval=[3, 1]),
            "verdict.interval",
            "the lower end first",
        ),
        (lambda v: v["verdict"].update(interval=[3]), "verdict.interval", "the two ends"),
        (lambda v: v["tuned"].update(standard_error=-1.0), "tuned.standard_error", "at least 0"),
        (lambda v: v["tuned"].update(value=math.nan), "tuned.value", "the metric"),
        (lambda v: v["controls"][0].update(images=0), "controls[0].images", "number of images"),
        (lambda v: v["seeds"]["A"].update(first=-1), "seeds.A.first", "the first image seed"),
        (lambda v: v.pop("measure"), "measure", "a mapping with `metric`"),
        (lambda v: v.pop("provenance"), "provenance", "a mapping with `skiptune`"),
        (lambda v: v.update(sktudy="x"), "sktudy", "did you mean `study`?"),
    ],
)
def test_a_wrong_value_is_named(
    change: Callable[[dict[str, Any]], object], where: str, expected: str
) -> None:
    with pytest.raises(SpecError) as caught:
        Tuned.from_json(damaged(change), source="tuned.json")
    (problem,) = caught.value.problems
    assert problem.where == f"tuned.json: {where}"
    assert expected in problem.expected
    assert problem.found
    assert "skiptune export" in caught.value.hint


def test_all_problems_come_at_once() -> None:
    def change(values: dict[str, Any]) -> None:
        values["skips"][0]["scale"] = -1.0
        values["verdict"]["alpha"] = 2.0
        values["extra"] = 1

    with pytest.raises(SpecError) as caught:
        Tuned.from_json(damaged(change))
    places = {problem.where for problem in caught.value.problems}
    assert places == {
        "tuned.json: skips[0].scale",
        "tuned.json: verdict.alpha",
        "tuned.json: extra",
    }


@pytest.mark.parametrize(
    ("text", "where", "expected", "found"),
    [
        ("", ":1", "complete JSON", "the end of the file"),
        ("not json", ":1", "complete JSON", "Expecting value"),
        ("[1, 2]", ": format", "skiptune.tuned", "[1, 2]"),
        ('{"a": 1}', ": format", "skiptune.tuned", "null"),
        ('{"format": "other"}', ": format", "skiptune.tuned", '"other"'),
        ('{"format": "a", "format": "a"}', "", "plain JSON", 'key "format" twice'),
        ('{"format": NaN}', "", "plain JSON", "the number NaN"),
        ('{"format": -Infinity}', "", "plain JSON", "the number -Infinity"),
        ("[" * 100_000, "", "plain JSON", "recursion"),
        (
            '{"format": "skiptune.tuned", "schema_version": 2}',
            ": schema_version",
            "at most 1",
            "2, written by a newer skiptune",
        ),
        (
            '{"format": "skiptune.tuned", "schema_version": "1"}',
            ": schema_version",
            "1",
            '"1"',
        ),
    ],
)
def test_files_that_are_no_tuned_json(
    text: str, where: str, expected: str, found: str, tmp_path: Path
) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load(path)
    problem = next(p for p in caught.value.problems if p.where == f"{path}{where}")
    assert problem.expected == expected
    assert found in problem.found
    assert caught.value.hint


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    make_tuned().write(path)
    text = path.read_text().rstrip()
    for end in range(0, len(text), 97):
        path.write_text(text[:end])
        with pytest.raises(SpecError):
            load(path)


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n")
    for name, found in (
        ("none.json", "no such file"),
        ("image.png", "binary data"),
        ("", "a folder"),
    ):
        with pytest.raises(SpecError) as caught:
            load(tmp_path / name)
        assert found in caught.value.problems[0].found
        assert "skiptune export" in caught.value.hint


def test_a_number_too_large_for_a_float_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    make_tuned().write(path)
    path.write_text(path.read_text().replace('"value": 5.8', '"value": 1e999', 1))
    with pytest.raises(SpecError, match=r"baseline\.value"):
        load(path)


def test_apply_scales_the_network_as_the_schedule_does() -> None:
    network = make_network()
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 3.0])
    before = network(x, sigma)
    handle = make_tuned().apply(network, sha256=SHA)
    assert handle.schedule == Schedule.uniform(SCALES)
    assert not torch.equal(network(x, sigma), before)
    handle.remove()
    assert torch.equal(network(x, sigma), before)


def test_another_network_is_refused_and_left_alone() -> None:
    for network in (make_network(num_blocks=2), make_network(model_channels=16)):
        with pytest.raises(NetworkError) as caught:
            make_tuned().apply(network)
        assert not any(module._forward_pre_hooks for module in network.modules())
        assert all(problem.where.startswith("network: ") for problem in caught.value.problems)


def test_differing_skips_are_named() -> None:
    other = make_network(num_blocks=2)
    with pytest.raises(NetworkError) as caught:
        make_tuned().check(find_skips(other))
    problems = {problem.where: problem for problem in caught.value.problems}
    new = {s.address for s in find_skips(other)} - {s.address for s in SKIPS}
    assert new
    for address in new:
        assert problems[f"network: {address}"].expected == "no such skip"
    with pytest.raises(NetworkError) as caught:
        make_tuned().check(SKIPS[1:])
    (problem,) = caught.value.problems
    assert problem.where == f"network: {SKIPS[0].address}"
    assert problem.found == "no such skip"


def test_other_weights_are_refused() -> None:
    with pytest.raises(NetworkError) as caught:
        make_tuned().apply(make_network(), sha256="f" * 64)
    (problem,) = caught.value.problems
    assert SHA in problem.expected and "f" * 64 in problem.found
    make_tuned().check(SKIPS, sha256=SHA)


@pytest.mark.parametrize("verdict", ["not confirmed", "no significant gain"])
def test_only_a_win_needs_evidence(verdict: str) -> None:
    assert Verdict.model_validate({"verdict": verdict}).gain is None


def test_models_that_judge_text_are_named_and_older_files_have_none(tmp_path: Path) -> None:
    plain = make_tuned().to_json()
    assert "text_models" not in plain["measure"]  # as earlier versions write it
    assert Tuned.from_json(plain).measure.text_models == {}
    plain["measure"]["text_models"] = {"clip_score": {"name": "ViT-L/14", "sha256": "a" * 64}}
    tuned = Tuned.from_json(plain)
    tuned.write(tmp_path / "tuned.json")
    assert load(tmp_path / "tuned.json").measure.text_models["clip_score"].sha256 == "a" * 64
    assert tuned.to_json() == plain
    plain["measure"]["text_models"]["clip_score"]["sha256"] = "short"
    with pytest.raises(SpecError, match=r"measure\.text_models\.clip_score\.sha256"):
        Tuned.from_json(plain)


def test_the_schema_beside_the_code_is_the_schema_of_the_code() -> None:
    path = Path(load.__code__.co_filename).with_name("tuned.schema.json")
    assert json.loads(path.read_text()) == json_schema()
