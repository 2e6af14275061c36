from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skiptune.canonical import canonical
from skiptune.errors import Problem, SpecError
from skiptune.search.spec import StudySpec, difference, load_spec, preset_text

SMALLEST: dict[str, Any] = {
    "study": "s",
    "network": {"checkpoint": "fashion"},
    "objective": {"extractor": "fashion-cnn", "reference": "fashion-train"},
}


def problems(text: str, path: Path, *, overrides: Sequence[str] = ()) -> tuple[Problem, ...]:
    """Return what is wrong with a study file of this text."""
    file = path / "study.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_spec(file, overrides=overrides)
    assert caught.value.hint
    for problem in caught.value.problems:
        assert problem.where and problem.expected and problem.found
        assert "pydantic" not in str(problem)
    return caught.value.problems


def test_reading_specs_imports_neither_torch_nor_optuna() -> None:
    code = (
        "import sys; from skiptune.search import spec, space, tuned, samplers\n"
        "spec.load_spec('fashion')\n"
        "print({'torch', 'optuna', 'numpy', 'sqlalchemy'} & set(sys.modules))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == "set()"


@pytest.mark.parametrize(
    ("setting", "steps"),
    [
        ("nfe: 6", 6),
        ("solver: heun, nfe: 19", 10),
        ("nfe: 19, solver: heun", 10),
        ("solver: heun, nfe: 38, guidance: 2", 10),
        ("solver: heun, nfe: 20, final_zero: false", 10),
        ("nfe: null, steps: 7", 7),
        ("sigmas: [80, 5, 0.1]", 3),
        ("sigmas: [80, 5, 0.1], final_zero: false", 2),
    ],
)
def test_steps_may_be_given_by_evaluations_or_levels(
    setting: str, steps: int, tmp_path: Path
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(GOOD.replace("steps: 6", setting))
    spec = load_spec(file)
    assert spec.setting.steps == steps
    plain = spec.to_json()
    assert "nfe" not in plain["setting"]
    assert StudySpec.from_json(plain) == spec


GOOD = """\
study: s
network: {checkpoint: fashion}
setting: {steps: 6}
space: {kind: per-skip, low: 0.5, high: 2}
objective: {extractor: fashion-cnn, reference: fashion-train}
search: {evaluations: 4, rungs: [500, 1000]}
confirm: {images: 500}
"""


@pytest.mark.parametrize(
    ("good", "bad", "where", "expected", "found"),
    [
        ("study: s", "study: 3", "1: study", "a name", "3"),
        ("study: s", "study: a/b", "1: study", "letters, digits", '"a/b"'),
        ("study: s", "study: ''", "1: study", "a name", '""'),
        ("study: s", "study: [s]", "1: study", "a name", '["s"]'),
        ("study: s\n", "", "study.yaml: study", "a name", "nothing"),
        ("{checkpoint: fashion}", "{}", "2: network.checkpoint", "fashion", "nothing"),
        ("{checkpoint: fashion}", "fashion", "2: network", "a mapping", '"fashion"'),
        ("fashion}", "fashion, sha256: ABC}", "2: network.sha256", "64 lower-case", '"ABC"'),
        ("fashion}", "fashion, sha265: a}", "2: network.sha265", "`sha256`", "unknown key"),
        ("space:", "spcae:", "4: spcae", "did you mean `space`?", "unknown key `spcae`"),
        ("low: 0.5", "lo: 0.5", "4: space.lo", "did you mean `low`?", "unknown key `lo`"),
        ("steps: 6", "steps: 0", "3: setting.steps", "from 1 to 1000", "0"),
        ("steps: 6", "steps: -1", "3: setting.steps", "from 1 to 1000", "-1"),
        ("steps: 6", 'steps: "6"', "3: setting.steps", "a whole number", '"6" (text)'),
        ("steps: 6", "steps: 6.0", "3: setting.steps", "a whole number", "6.0"),
        ("steps: 6", "steps: true", "3: setting.steps", "a whole number", "true"),
        ("steps: 6", "steps: null", "3: setting.steps", "a whole number", "null"),
        ("steps: 6", "steps: [6]", "3: setting.steps", "a whole number", "[6]"),
        ("steps: 6", "solver: huen", "3: setting.solver", "did you mean `heun`?", '"huen"'),
        ("steps: 6", "solver: 3", "3: setting.solver", "euler, heun, dpmpp_2m", "3"),
        ("steps: 6", "grid: log-snr", "3: setting.grid", "did you mean `logsnr`?", '"log-snr"'),
        (
            "steps: 6",
            "sigma_min: 90",
            "3: setting.sigma_max",
            "above `sigma_min` (90.0)",
            "80.0 (default)",
        ),
        ("steps: 6", "sigma_max: .inf", "3: setting.sigma_max", "a sigma above", "Infinity"),
        ("steps: 6", "exponent: .nan", "3: setting.exponent", "a number above 0", "NaN"),
        ("steps: 6", "labels: 1.5", "3: setting.labels", "one class from 0", "1.5"),
        ("steps: 6", "labels: -1", "3: setting.labels", "one class from 0", "-1"),
        ("steps: 6", "labels: rnd", "3: setting.labels", "one class from 0", '"rnd"'),
        ("steps: 6", "churn: {amount: 1}", "3: setting.churn.amount", "only euler and heun", "1"),
        (
            "steps: 6",
            "guidance: 2, labels: null",
            "3: setting.labels",
            "because guidance is asked for",
            "null",
        ),
        (
            "steps: 6",
            "solver: heun, churn: {low: 2, high: 1}",
            "3: setting.churn.high",
            "at least `low` (2.0)",
            "1",
        ),
        ("steps: 6", "nfe: 0", "3: setting.nfe", "a whole number of evaluations", "0"),
        ("steps: 6", "nfe: 6.0", "3: setting.nfe", "a whole number of evaluations", "6.0"),
        ("steps: 6", "steps: 6, nfe: 6", "3: setting.nfe", "`nfe` or `steps`, not both", "6"),
        ("steps: 6", "nfe: 10, solver: heun", "3: setting.nfe", "9 or 11", "10"),
        ("steps: 6", "nfe: 3, guidance: 2", "3: setting.nfe", "2 or 4", "3"),
        ("steps: 6", "nfe: 2, sigmas: [2, 1]", "3: setting.nfe", "`nfe` or `sigmas`", "2"),
        ("steps: 6", "order: 3", "3: setting.order", "only unipc", "3"),
        ("steps: 6", "order: 4, solver: unipc", "3: setting.order", "2 or 3", "4"),
        ("steps: 6", "eta: 0", "3: setting.eta", "only dpmpp_2m_sde", "0"),
        ("steps: 6", "final_zero: 0", "3: setting.final_zero", "true, or false", "0"),
        ("steps: 6", "sigmas: []", "3: setting.sigmas", "a list of falling", "[]"),
        ("steps: 6", "sigmas: [5, 7]", "3: setting.sigmas[1]", "below the one before (5.0)", "7"),
        ("steps: 6", "sigmas: [5, 0]", "3: setting.sigmas[1]", "a list of falling", "0"),
        ("steps: 6", "sigmas: [5, 1], steps: 6", "3: setting.sigmas", "6 sigmas for 6", "[5, 1]"),
        (
            "steps: 6",
            "sigmas: [5], final_zero: false",
            "3: setting.sigmas",
            "2 sigmas for 1 step without",
            "[5]",
        ),
        ("steps: 6", "sigmas: [5, 1], grid: logsnr", "3: setting.sigmas", "asks for a", "[5, 1]"),
        ("steps: 6", "guidance_low: 1", "3: setting.guidance_low", "without guidance", "1"),
        ("steps: 6", "guidance_high: 1", "3: setting.guidance_high", "without guidance", "1"),
        (
            "steps: 6",
            "guidance: 2, guidance_low: 3, guidance_high: 1",
            "3: setting.guidance_high",
            "above `guidance_low` (3.0)",
            "1",
        ),
        ("steps: 6", "history: forget", "3: setting.history", "one of keep, restart", "forget"),
        (
            "steps: 6",
            "history: restart, solver: heun",
            "3: setting.history",
            "keep: heun looks back at no",
            "restart",
        ),
        ("per-skip", "per-skp", "4: space.kind", "did you mean `per-skip`?", '"per-skp"'),
        ("low: 0.5", "low: 0", "4: space.low", "a scale above 0", "0"),
        ("low: 0.5", "low: -0.5", "4: space.low", "a scale above 0", "-0.5"),
        ("low: 0.5, high: 2", "low: 1, high: 1", "4: space.high", "above `low` (1.0)", "1"),
        ("high: 2", "high: 0.4", "4: space.high", "above `low` (0.5)", "0.4"),
        ("high: 2", "skips: []", "4: space.skips", '"all" or a list', "[]"),
        ("high: 2", "skips: al", "4: space.skips", '"all" or a list', '"al"'),
        ("high: 2", "skips: [a, a]", "4: space.skips", "each once", '["a", "a"]'),
        ("high: 2", "skips: [a, 3]", "4: space.skips[1]", '"all" or a list', "3"),
        ("high: 2", "window: find", "4: space.window", '"search"', '"find"'),
        ("high: 2", "window: 3", "4: space.window", '"search"', "3"),
        (
            "high: 2",
            "window: {first: 0}",
            "4: space.window.last",
            "from `first` to steps - 1",
            "nothing",
        ),
        (
            "high: 2",
            "window: {first: 3, last: 2}",
            "4: space.window.last",
            "from `first` (3)",
            "2",
        ),
        (
            "high: 2",
            "window: {first: 0, last: 6}",
            "4: space.window.last",
            "from 0 to 5 (setting.steps is 6)",
            "6",
        ),
        (
            "extractor: fashion-cnn",
            "extractor: inceptoin",
            "5: objective.extractor",
            "did you mean `inception`?",
            '"inceptoin"',
        ),
        (
            "reference: fashion-train",
            "reference: fashion-trian",
            "5: objective.reference",
            "did you mean `fashion-train`?",
            '"fashion-trian"',
        ),
        (
            "extractor: fashion-cnn",
            "extractor: fashion-cnn+random-patchs",
            "5: objective.extractor",
            "did you mean `random-patches`?",
            '"fashion-cnn+random-patchs"',
        ),
        (
            "extractor: fashion-cnn",
            "extractor: fashion-cnn+dct:none",
            "5: objective.extractor",
            "a factor from 0.001 to 1000 behind `dct:`",
            '"fashion-cnn+dct:none"',
        ),
        (
            "extractor: fashion-cnn",
            "extractor: fashion-cnn+exported",
            "5: objective.extractor",
            "exported alone",
            '"fashion-cnn+exported"',
        ),
        ("extractor: fa", "metric: fad, extractor: fa", "5: objective.metric", "fd", '"fad"'),
        ("evaluations: 4", "evaluations: 0", "6: search.evaluations", "at least 1", "0"),
        ("evaluations: 4", "seed: -1", "6: search.seed", "from 0 to 2**32 - 1", "-1"),
        ("evaluations: 4", "sampler: tpee", "6: search.sampler", "did you mean `tpe`?", '"tpee"'),
        ("[500, 1000]", "[]", "6: search.rungs", "a list of increasing", "[]"),
        ("[500, 1000]", "500", "6: search.rungs", "a list of increasing", "500"),
        ("[500, 1000]", "[500, 500]", "6: search.rungs[1]", "rung before (500)", "500"),
        ("[500, 1000]", "[1000, 500]", "6: search.rungs[1]", "rung before (1000)", "500"),
        ("[500, 1000]", "[500, 600]", "6: search.rungs[1]", "multiple of 250", "600"),
        # The untouched network alone takes 1000 images, the first schedule 500 more.
        (
            "rungs: [500, 1000]",
            "images: 1250, rungs: [500, 1000]",
            "6: search.rungs[1]",
            "within search.images (1,250): the baseline takes the last one",
            "1000",
        ),
        ("[500, 1000]", "[0, 500]", "6: search.rungs[0]", "multiple of 250", "0"),
        ("[500, 1000]", "[1000250]", "6: search.rungs[0]", "at most 1,000,000", "1000250"),
        ("evaluations: 4", "promote: 0", "6: search.promote", "above 0 and at most 1", "0"),
        ("images: 500", "images: 300", "7: confirm.images", "multiple of 250", "300"),
        ("images: 500", "images: 50250", "7: confirm.images", "at most 50000", "50250"),
        ("images: 500", "candidates: 0", "7: confirm.candidates", "at least 1", "0"),
        ("images: 500", "alpha: 1", "7: confirm.alpha", "below 1", "1"),
        ("images: 500", "min_gain: 1", "7: confirm.min_gain", "to below 1", "1"),
        ("images: 500", "controls: 1", "7: confirm.controls", "true, false, or a list", "1"),
        (
            "images: 500",
            "controls: [epsilon scal]",
            "7: confirm.controls[0]",
            "did you mean `epsilon scale`?",
            "epsilon scal",
        ),
        (
            "images: 500",
            "controls: [solver, solver]",
            "7: confirm.controls",
            "each once",
            "solver",
        ),
        ("confirm:", "microbatch: 60\nconfirm:", "7: microbatch", "a divisor of the chunk", "60"),
        ("confirm:", "microbatch: 0\nconfirm:", "7: microbatch", "a divisor of the chunk", "0"),
    ],
)
def test_one_wrong_value_is_one_problem(
    good: str, bad: str, where: str, expected: str, found: str, tmp_path: Path
) -> None:
    assert good in GOOD
    everything = problems(GOOD.replace(good, bad, 1), tmp_path)
    (problem,) = (p for p in everything if p.where.endswith(where))
    assert expected in problem.expected
    assert found in problem.found
    # `spcae` and `lo` leave a key at its default; nothing else may be reported.
    assert len(everything) == 1


def test_low_above_high_is_refused(tmp_path: Path) -> None:
    found = problems(GOOD.replace("low: 0.5, high: 2", "low: 2, high: 0.5"), tmp_path)
    assert [problem.where.split(" ")[-1] for problem in found] == ["space.high"]
    assert [problem.found for problem in found] == ["0.5"]


def test_the_good_file_is_good(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(GOOD)
    spec = load_spec(tmp_path / "study.yaml")
    assert spec.search.rungs == (500, 1000)
    assert spec.space.high == 2.0 and isinstance(spec.space.high, float)


def test_all_problems_come_at_once_in_the_order_of_the_spec(tmp_path: Path) -> None:
    text = GOOD.replace("steps: 6", "steps: 0, solver: huen").replace("low: 0.5", "low: 0")
    text = text.replace("[500, 1000]", "[500, 300, 200]") + "confirm: {images: 1}\n"
    found = problems(text, tmp_path, overrides=["confirm.alpah=0.1", "search.evaluations=x"])
    places = [problem.where.removeprefix(f"{tmp_path}/") for problem in found]
    assert places == [
        "study.yaml:8: confirm",
        "study.yaml:3: setting.solver",
        "study.yaml:3: setting.steps",
        "study.yaml:4: space.low",
        "-s search.evaluations",
        "study.yaml:6: search.rungs[1]",
        "study.yaml:6: search.rungs[2]",
        "-s confirm.alpah",
    ]


def test_names_that_are_neither_file_nor_preset(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec("fashoin")
    (problem,) = caught.value.problems
    assert problem.where == "fashoin"
    assert "did you mean `fashion`?" in problem.expected
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "none.yaml")
    assert caught.value.problems[0].found == "no such file"
    with pytest.raises(SpecError, match="did you mean `fashion`"):
        preset_text("fashoin")


def test_a_preset_goes_before_a_file_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fashion").write_text(GOOD)
    assert load_spec("fashion").study == "fashion"
    assert load_spec("./fashion").study == "s"


def test_files_are_found_from_the_folder_of_the_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    text = GOOD.replace("checkpoint: fashion", "checkpoint: nets/a.safetensors")
    text = text.replace("reference: fashion-train", "reference: /data/stats.npz")
    text = text.replace("fashion-cnn,", "inception, weights: 'https://a.org/w.pt',")
    (tmp_path / "study.yaml").write_text(text)
    spec = load_spec("../study.yaml", overrides=[])
    assert Path(spec.network.checkpoint).resolve() == tmp_path / "nets" / "a.safetensors"
    assert spec.objective.reference == "/data/stats.npz"
    assert spec.objective.weights == "https://a.org/w.pt"
    spec = load_spec("../study.yaml", overrides=["network.checkpoint=b.safetensors"])
    assert spec.network.checkpoint == str(here / "b.safetensors")
    # What is stored reads back the same from anywhere.
    monkeypatch.chdir(tmp_path)
    assert StudySpec.from_json(spec.to_json()) == spec


def test_a_stored_spec_reads_back() -> None:
    for overrides in (
        [],
        ["space.intervals=1", "space.window=search", "space.skips=[a, b]"],
        ["space.window={first: 1, last: 3}", "setting.solver=heun", "setting.churn.amount=3"],
    ):
        spec = load_spec("fashion", overrides=overrides)
        assert StudySpec.from_json(spec.to_json()) == spec


def test_a_later_key_of_the_network_is_written_only_where_it_says_something() -> None:
    plain = load_spec("fashion").to_json()["network"]
    assert list(plain) == ["checkpoint", "sha256", "url"]
    address = "https://a.org/net.pkl"
    spec = load_spec("fashion", overrides=[f"network.pickle_url={address}"])
    assert spec.to_json()["network"]["pickle_url"] == address
    assert StudySpec.from_json(spec.to_json()) == spec
    assert spec.meaning() == load_spec("fashion").meaning()


def test_specs_are_immutable() -> None:
    spec = load_spec("fashion")
    with pytest.raises(ValueError, match="frozen"):
        spec.study = "other"  # type: ignore[misc]
    assert isinstance(hash(spec), int)


@pytest.mark.parametrize(
    "free",
    [
        "search.evaluations=80",
        "search.rungs=[1000, 1500, 8000]",
        "search.sampler=random",
        "search.promote=0.5",
        "confirm.images=5000",
        "confirm.candidates=5",
        "network.sha256=" + "a" * 64,
        "objective.weights=other/place.pt",
    ],
)
def test_a_budget_may_change_on_resume(free: str) -> None:
    stored = load_spec("fashion").meaning()
    assert difference(stored, load_spec("fashion", overrides=[free]).meaning()) == []


def test_a_rung_behind_the_only_one_would_make_it_a_screen() -> None:
    only, more = "search.rungs=[1000]", "search.rungs=[1000, 1500]"
    for projection, refused in (("null", []), ("16", ["search.rungs"])):
        screen = f"objective.projection={projection}"
        stored = load_spec("fashion", overrides=[screen, only]).meaning()
        given = load_spec("fashion", overrides=[screen, more])
        assert [problem.where for problem in difference(stored, given.meaning())] == refused
        assert difference(stored, stored) == []
        assert given.screen == (16 if refused else None)


def test_joint_extractors_have_one_name_however_they_are_written() -> None:
    for written in ("fashion-cnn+dct:4", "fashion-cnn:1+dct:4.0", "fashion-cnn + dct:4e0"):
        spec = load_spec("fashion", overrides=[f"objective.extractor={written}"])
        assert spec.objective.extractor == "fashion-cnn+dct:4"
        assert spec.meaning()["objective.extractor"] == "fashion-cnn+dct:4"


@pytest.mark.parametrize(
    ("change", "where", "expected", "found"),
    [
        ("setting.steps=7", "setting.steps", "6 (stored)", "7 (given)"),
        ("setting.exponent=5", "setting.exponent", "7.0 (stored)", "5.0 (given)"),
        ("setting.churn.noise=1.003", "setting.churn.noise", "1.0 (stored)", "1.003 (given)"),
        ("space.low=0.4", "space.low", "0.7 (stored)", "0.4 (given)"),
        ("space.skips=[a]", "space.skips", '"all" (stored)', '["a"] (given)'),
        ("objective.extractor=inception", "objective.extractor", "fashion-cnn", "inception"),
        ("search.rungs=[500]", "search.rungs", "[500, 2000] (stored)", "[500] (given)"),
        ("search.rungs=[250, 2000]", "search.rungs", "[500, 2000] (stored)", "[250, 2000]"),
        ("confirm.alpha=0.2", "confirm.alpha", "0.05 (stored)", "0.2 (given)"),
        ("confirm.min_gain=0", "confirm.min_gain", "0.01 (stored)", "0.0 (given)"),
        ("microbatch=25", "microbatch", "50 (stored)", "25 (given)"),
    ],
)
def test_a_meaning_may_not_change(change: str, where: str, expected: str, found: str) -> None:
    stored = load_spec("fashion", overrides=["search.rungs=[500, 2000]"]).meaning()
    rungs = "search.rungs=[500, 2000]"
    (problem,) = difference(stored, load_spec("fashion", overrides=[rungs, change]).meaning())
    assert problem.where == where
    assert expected in problem.expected and found in problem.found


def test_meanings_are_plain_data_and_compare_by_value() -> None:
    meaning = load_spec("fashion").meaning()
    assert canonical(meaning)
    assert difference(meaning, yaml.safe_load(yaml.safe_dump(meaning))) == []
    assert difference({"a": 1}, {"b": 2}) == [
        Problem("a", "1 (stored)", "nothing (given)"),
        Problem("b", "nothing (stored)", "2 (given)"),
    ]
    assert difference({"a": math.pi}, {"a": math.nextafter(math.pi, 4)}) != []


LINES = GOOD.splitlines()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    line=st.integers(0, len(LINES) - 1),
    start=st.integers(0, 60),
    cut=st.integers(0, 10),
    insert=st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
def test_damaged_files_give_a_spec_or_a_spec_error(
    line: int, start: int, cut: int, insert: str, tmp_path: Path
) -> None:
    old = LINES[line]
    damaged = [*LINES[:line], old[:start] + insert + old[start + cut :], *LINES[line + 1 :]]
    file = tmp_path / "study.yaml"
    file.write_text("\n".join(damaged), encoding="utf-8")
    try:
        spec = load_spec(file)
    except SpecError as error:
        assert all(p.where and p.expected and p.found for p in error.problems)
        return
    assert StudySpec.from_json(spec.to_json()) == spec
