"""Studies of text: errors that count prompts, and prompts that each confirm has for itself."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from skiptune.commands.scoring import FINAL_SEEDS
from skiptune.errors import SpecError
from skiptune.objectives.kid import kid_influence
from skiptune.objectives.paired import corrected_influence
from skiptune.sampling.images import start
from skiptune.sampling.noise import image_streams
from skiptune.sampling.prompts import share_of_line, share_of_seed
from skiptune.search.confirm import HALF, halves, next_half
from skiptune.search.slopes import find_slopes
from skiptune.search.spec import load_spec
from skiptune.search.stopping_rule import _prompts
from skiptune.search.study import SEARCH, SEARCH_SEED, check_study, open_stored, open_study
from skiptune.search.tune import differentiated
from skiptune.search.tuned import load
from skiptune.storage import ledger
from skiptune.storage.records import SpentBlock
from skiptune.storage.seeds import CONFIRM_SEED, CONFIRM_SEEDS
from tests.command_line import Outcome
from tests.pipeline_studies import PROMPTS, prepare, write_spec
from tests.pipelines import random_unet, write_pipeline
from tests.text_encoders import install, write_encoders
from tests.vaes import random_vae

Command = Callable[..., Outcome]

SHARES = ("search", "confirm-1/A", "confirm-1/B")
COUNTS = {name: sum(share_of_line(line) == name for line in PROMPTS) for name in SHARES}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pipeline that reads text, a file of prompts, and a reference."""
    folder = tmp_path_factory.mktemp("texts")
    prepare(folder)
    unet = random_unet("UNet2DConditionModel")
    write_encoders(write_pipeline(folder / "text", unet=unet, vae=random_vae()), widths=[12])
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    return folder


@pytest.fixture
def text(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(monkeypatch)
    monkeypatch.setenv("SKIPTUNE_CACHE", str(tmp_path / "cache"))
    for name in ("SKIPTUNE_PATH", "SKIPTUNE_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)
    return Path(shutil.copytree(prepared, tmp_path / "study"))


def clustered(influence: Any, labels: Any) -> float:
    """The standard error of a mean whose unit is the prompt, by its formula."""
    centred = influence - influence.mean()
    sums = [float(centred[labels == label].sum()) for label in set(labels.tolist())]
    squares = sum(one**2 for one in sums)
    return math.sqrt(len(sums) / (len(sums) - 1) * squares) / len(influence)


def test_errors_count_prompts_and_a_confirm_draws_fresh_ones(
    command: Command, text: Path, tmp_path: Path
) -> None:
    spec = write_spec(text, "./text", prompts="./prompts.txt")
    url = f"sqlite:///{tmp_path / 'one.db'}"
    place = ("--storage", url, "--artifacts", tmp_path / "arrays")
    changes = ("-s", "confirm.controls=[epsilon scale]", "-s", "objective.beside=[kid]")
    outcome = command("tune", spec, "-q", "--no-progress", "-o", text, *place, *changes)
    assert outcome.code == 0, outcome.err
    told = f"errors count prompts, drawn from {COUNTS['confirm-1/B']}"
    assert told in " ".join(outcome.out.split())
    # Everything that is shown, from the stored arrays and the formula alone.
    study = open_stored("pipeline", storage=url, artifacts=tmp_path / "arrays")
    with study.database:
        assert study.reference is not None
        assert study.real is not None
        evaluations = ledger.evaluations(study.database, study.id)
        used: dict[str, set[int]] = {}
        labels, psi = {}, {}
        for one in evaluations:
            chunks = ledger.chunks_of(study.database, one.id, study.images_of(one))
            arrays = [study.arrays.read(str(chunk.array)) for chunk in chunks]
            labels[one.id] = np.concatenate([each["label"] for each in arrays])
            rows = np.concatenate([each["features"] for each in arrays])
            used.setdefault(one.block, set()).update(int(label) for label in labels[one.id])
            fd = corrected_influence(rows, study.reference)[1]
            psi[one.id] = {0: fd, 1: kid_influence(rows, study.real.kernel)[1]}
        assert set(used) == set(COUNTS)
        for block, lines in used.items():
            assert {share_of_line(PROMPTS[line]) for line in lines} == {block}
            # 250 images draw 117 of 140 lines on average, and all of 40.
            assert len(lines) > 0.7 * COUNTS[block]
        assert not used["search"] & (used["confirm-1/A"] | used["confirm-1/B"])
        assert not used["confirm-1/A"] & used["confirm-1/B"]
        bases = {one.block: one for one in evaluations if one.kind == "baseline"}
        kinds = set()
        scored = {}
        for score in ledger.scores(study.database, study.id, every_place=True):
            one = next(each for each in evaluations if each.id == score.evaluation_id)
            which = 1 if score.metric.startswith("KID") else 0
            ours, base = psi[one.id][which], psi[bases[one.block].id][which]
            error = clustered(ours, labels[one.id])
            assert score.standard_error == pytest.approx(error, rel=1e-9)
            if one.kind != "baseline":
                assert score.difference_error is not None
                error = clustered(ours - base, labels[one.id])
                assert score.difference_error == pytest.approx(error, rel=1e-9)
            kinds.add((one.kind, one.block, which))
            if which == 0:
                scored[one.block, one.label] = score
        for which in (0, 1):
            assert ("proposal", "search", which) in kinds
            assert ("control", "confirm-1/B", which) in kinds
            assert ("confirm", "confirm-1/B", which) in kinds
    document = load(text / "tuned.json")
    assert document.measure.unit == "prompt"
    untouched, tuned = scored["confirm-1/B", "baseline"], scored["confirm-1/B", "tuned"]
    assert document.baseline.standard_error == untouched.standard_error
    assert document.tuned.standard_error == tuned.standard_error
    assert document.tuned.difference_error == tuned.difference_error
    low, high = document.verdict.interval or (0.0, 0.0)
    half = NormalDist().inv_cdf(1 - 0.025 / 2) * (tuned.difference_error or 0.0) / untouched.value
    assert (high - low) / 2 == pytest.approx(100 * half, rel=1e-6)

    shown = command("status", "pipeline", *place[:2])
    assert ["errors", "count", "prompts"] in [line.split() for line in shown.out.splitlines()]

    # Scored once more, and from the seeds of reports: prompts again, of all lines.
    again = command("score", "pipeline", "--metric", "kid,precision", "--json", *place)
    assert again.code == 0, again.err
    rows = json.loads(again.out)["scores"]
    assert {row["unit"] for row in rows} == {"prompt"}
    assert "errors count prompts" in command("score", "pipeline", *place).out
    refused = command("score", "pipeline", "--metric", "recall", *place)
    assert refused.code == 2 and "blocks of seeds, which share prompts" in refused.err
    place_of_reference = ("--reference", text / "reference.npz")
    report = command("score", text / "tuned.json", "--num", "250", "--json", *place_of_reference)
    assert report.code == 0, report.err
    row = json.loads(report.out)["scores"][0]
    network: Any = study.checkpoint.network
    seeds = image_streams("edm", range(250))
    _, hot = start(network, study.setting, seeds)
    assert hot is not None
    drawn = hot.argmax(1).numpy()
    assert (row["unit"], row["prompts"]) == ("prompt", len(set(drawn.tolist())))
    assert row["prompts"] > COUNTS["search"]
    refused = command(
        "score", text / "tuned.json", "--num", "1000", "--metric", "recall", *place_of_reference
    )
    assert refused.code == 2 and "blocks of seeds, which share prompts" in refused.err


def test_errors_of_slopes_count_prompts_and_so_does_patience(
    command: Command, text: Path, tmp_path: Path
) -> None:
    changes = ["search.rungs=[500]", "search.sampler=auto", "search.patience=auto"]
    url, arrays = f"sqlite:///{tmp_path / 'one.db'}", tmp_path / "arrays"
    spec = write_spec(text, "./text", prompts="./prompts.txt")
    study = open_study(load_spec(spec, overrides=changes), storage=url, artifacts=arrays)
    with study.database:
        assert _prompts(study) == (COUNTS["search"], COUNTS["confirm-1/B"])
        end = differentiated(study, "baseline")
        assert end is not None
        entered, found = end[0], end[1]
        slopes = find_slopes(study, entered)
        assert slopes is not None
        rows, labels, drawn = [], [], []
        for chunk in ledger.chunks_of(study.database, slopes.id):
            stored = study.arrays.read(str(chunk.array))
            rows.append(stored["slopes"].reshape(len(stored["slopes"]), -1, len(found.levels)))
            labels.append(stored["label"])
            seeds = range(chunk.first_seed, chunk.first_seed + len(stored["label"]))
            _, ones = start(study.checkpoint.network, study.setting, image_streams("edm", seeds))
            assert ones is not None
            drawn.append(ones.argmax(1).numpy())
        assert np.array_equal(np.concatenate(labels), np.concatenate(drawn))
        own = np.concatenate(rows).astype(float).sum(axis=2)[:, 0]
        plain = own.std(ddof=1) / math.sqrt(len(own))
        effect = max(1.0, clustered(own, np.concatenate(labels)) / plain)
        blocks = found.blocks.sum(axis=2)[:, 0]
        error = effect * blocks.std(ddof=1) / math.sqrt(len(blocks))
        assert found.skips[1][0] == pytest.approx(error, rel=1e-5)
        assert found.units is not None and found.units.count > 40
    # The same without a network.
    shown = command("explain", "pipeline", "--storage", url, "--artifacts", arrays)
    assert shown.code == 0, shown.err
    assert f"errors of {found.units.count} prompts" in " ".join(shown.out.split())


def test_check_and_plan_tell_the_prompts_of_each_share(command: Command, text: Path) -> None:
    spec = write_spec(text, "./text", prompts="./prompts.txt")
    words = "Errors count prompts: " + ", ".join(
        f"{name} draws from {count}" for name, count in COUNTS.items()
    )
    checked = command("check", spec)
    assert checked.code == 0, checked.err
    cut = f"the text encoder cuts {len(PROMPTS)} off: line 1, 2, 3, 4, 5, ..."
    assert f"{words}. They serve one confirm; {cut}" in checked.out
    # From the cache, too.
    again = json.loads(command("check", spec, "--json").out)
    assert again["prompts_cut"] == list(range(1, len(PROMPTS) + 1))
    planned = command("plan", spec, "--pilot", "250")
    assert planned.code == 0, planned.err
    said = " ".join(planned.out.split())
    assert f"{words}." in said
    assert "images of the same prompts help is not known" in said
    plain = json.loads(command("plan", spec, "--json").out)
    assert plain["prompts"] == COUNTS


def test_commands_that_call_the_network_tell_it_the_studys_prompts(
    command: Command, text: Path
) -> None:
    # Guidance needs them, and so does every call.
    spec = write_spec(text, "./text", prompts="./prompts.txt")
    guided = ("-s", "setting.guidance=2")
    shown = command("skips", spec, "--norms", "--json", *guided)
    assert shown.code == 0, shown.err
    assert len(json.loads(shown.out)["norms"]["ratios"]) == 4
    for network in (spec, text / "text"):
        traced = command("skips", network, "--trace", "--json")
        assert traced.code == 0, traced.err
        assert json.loads(traced.out)["agrees"] is True
    # A reference that is still to be fetched leaves the network to be timed.
    (text / "reference.npz").unlink()
    url = "objective.reference_url=https://example.org/reference.npz"
    checked = command("check", spec, *guided, "-s", url)
    assert checked.code == 2
    assert "images/s" in checked.out
    assert "skiptune fetch" in checked.err
    assert "reads text" not in checked.err


def test_too_few_prompts_are_refused_before_an_image_is_made(
    command: Command, text: Path, tmp_path: Path
) -> None:
    spec = write_spec(text, "./text", prompts="./prompts.txt")
    (text / "prompts.txt").write_text("\n".join(PROMPTS[:60]))
    refused = command("check", spec)
    assert refused.code == 2
    said = " ".join(refused.err.split())
    for share in ("confirm-1/A", "confirm-1/B"):
        count = sum(share_of_line(line) == share for line in PROMPTS[:60])
        assert f"share of {share} expected: at least 20 prompts, which its errors count" in said
        assert f"found: {count} of 60 lines" in said
    assert "share of search" not in said
    # One prompt for all images, or none, has no shares.
    for labels in ("3", "null"):
        outcome = command("check", spec, "-s", f"setting.labels={labels}")
        assert outcome.code == 0, outcome.err
    (text / "prompts.txt").write_text("\n".join(PROMPTS))
    beside = load_spec(spec, overrides=["objective.beside=[recall]"])
    with pytest.raises(SpecError, match=r"objective: expected metrics whose errors count prompts"):
        check_study(beside)
    # A later confirm has half as many.
    study = open_study(load_spec(spec), storage=f"sqlite:///{tmp_path / 'one.db'}")
    with study.database:
        assert study.unit == "prompt"
        with pytest.raises(SpecError, match="share of confirm-3/A: expected at least 20 prompts"):
            next_half(study, 3)
        assert not ledger.spent_blocks(study.database, study.id)


def test_blocks_of_seeds_and_shares_of_prompts_are_called_alike() -> None:
    assert share_of_seed(SEARCH_SEED) == SEARCH == "search"
    for number in range(1, 5):
        first = CONFIRM_SEED + number * CONFIRM_SEEDS
        spent = SpentBlock("id", f"confirm-{number}", number, first, 2 * HALF, 0.05)
        for half in halves(spent):
            for place in (0, HALF - 1):
                assert share_of_seed(half.first_seed + place) == half.name
    assert share_of_seed(FINAL_SEEDS - 1) is None
