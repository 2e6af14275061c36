"""Studies of a text pipeline that go by how images match their prompts, end to end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from skiptune.errors import ObjectiveError, StudyChangedError, render
from skiptune.objectives.clip_files import clip_files
from skiptune.objectives.diversity import diversity
from skiptune.objectives.text_scores import load_text_score
from skiptune.sampling.images import sample
from skiptune.sampling.prompts import share_of_line
from skiptune.search.files import sources_of
from skiptune.search.scoring import Stored
from skiptune.search.spec import load_spec
from skiptune.search.study import check_study, open_stored, open_study
from skiptune.search.tuned import load
from skiptune.storage import ledger
from tests.clip_models import write_clip, write_text_encoder
from tests.command_line import Outcome
from tests.pipeline_studies import PROMPTS
from tests.pipelines import random_unet, write_pipeline

GUARDS = ["clip_score >= 0.9 x baseline", "diversity >= 0.9 x baseline"]

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pipeline of pixels and text, two CLIP models, and prompts."""
    folder = tmp_path_factory.mktemp("text")
    unet = random_unet("UNet2DConditionModel", in_channels=3, out_channels=3)
    write_text_encoder(write_pipeline(folder / "pipeline", unet=unet), width=12)
    write_clip(folder / "clip")
    write_clip(folder / "pick", seed=1)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKIPTUNE_CACHE", str(tmp_path / "cache"))
    for name in ("SKIPTUNE_PATH", "SKIPTUNE_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)
    return Path(shutil.copytree(prepared, tmp_path / "study"))


def write_spec(folder: Path, objective: dict[str, Any]) -> Path:
    path = folder / "study.yaml"
    plain = {
        "study": "text",
        "network": {"checkpoint": "./pipeline", "prompts": "./prompts.txt"},
        "setting": {"solver": "euler", "steps": 2, "sigma_min": 0.02, "sigma_max": 100.0},
        "space": {"kind": "uniform", "low": 0.5, "high": 2.0},
        "objective": {"extractor": "dct", "clip_model": "./clip", **objective},
        "search": {"sampler": "random", "evaluations": 1, "rungs": [250]},
        "confirm": {"candidates": 1, "images": 250, "controls": False},
        "microbatch": 250,
    }
    path.write_text(yaml.safe_dump(plain))
    return path


def test_a_study_of_clip_scores_is_tuned_end_to_end(command: Command, folder: Path) -> None:
    spec = write_spec(folder, {"metric": "clip_score"})
    refused = command("check", spec, "-s", "search.sampler=descent")
    assert refused.code == 2
    assert "which have slopes" in refused.err and "found: clip_score" in refused.err
    checked = command("check", spec)
    assert checked.code == 0, checked.err
    assert "measures clip_score" in checked.out
    url = f"sqlite:///{folder / 'one.db'}"
    outcome = command("tune", spec, "-q", "--no-progress", "-o", folder, "--storage", url)
    assert outcome.code == 0, outcome.err
    measured = load(folder / "tuned.json").measure
    assert measured.metric == "CLIP score(ViT-32x2/8@32)-250"
    [(key, judge)] = measured.text_models.items()
    assert (key, judge.name) == ("clip_score", "ViT-32x2/8@32")
    assert judge.sha256 == clip_files(folder / "clip").digest()[0] != measured.extractor_sha256

    study = open_stored("text", storage=url)
    with study.database:
        here = ledger.evaluations(study.database, study.id, block="search")
        base = next(e for e in here if e.kind == "baseline")
        stored = Stored(study, base, 250).sample
        scores = stored.whole("clip_score")
        # Of each image with its own prompt, which follows from its seed.
        [batch] = sample(
            study.checkpoint.network, study.setting, range(1_000_000, 1_000_250), microbatch=250
        )
        assert batch.labels is not None
        ours = {place for place, line in enumerate(PROMPTS) if share_of_line(line) == "search"}
        assert 20 < len(set(batch.labels.tolist()) & ours) == len(set(batch.labels.tolist()))
        model = load_text_score("clip_score", folder / "clip", PROMPTS)
        assert np.array_equal(scores, model(batch.images, batch.labels).numpy())
        [score] = [
            one
            for one in ledger.scores(study.database, study.id)
            if one.evaluation_id == base.id and one.place == 0
        ]
        assert score.value == pytest.approx(float(scores.astype(np.float64).mean()))
        chunk = ledger.chunks_of(study.database, base.id)[0]
        assert chunk.provenance is not None and "transformers" in chunk.provenance
        proposal = next(e for e in here if e.kind == "proposal")
        other = Stored(study, proposal, 250).sample.whole("clip_score")
        gain = float((other.astype(np.float64) - scores).mean())
        spread, _ = diversity(lambda: stored.read("features"), batch.labels.numpy())

    # What is stored is scored again without sampling; a difference below 0 is better.
    asked = ("--metric", "clip_score,diversity")
    again = command("score", "text", *asked, "--storage", url, "--json")
    assert again.code == 0, again.err
    rows = json.loads(again.out)["scores"]
    assert [row["metric"] for row in rows[:2]] == [
        "CLIP score(ViT-32x2/8@32)-250",
        "diversity(dct)-250",
    ]
    assert [row["value"] for row in rows[:2]] == pytest.approx([score.value, spread])
    row = next(one for one in rows if one["block"] == "search" and one["difference"] is not None)
    assert row["difference"] == pytest.approx(-gain)
    absent = command("score", "text", "--metric", "pick_score", "--storage", url)
    assert absent.code == 2 and "--metric pick_score" in absent.err


def test_a_preference_score_needs_limits_and_runs_with_them(
    command: Command, folder: Path
) -> None:
    pick = {"metric": "pick_score", "pick_model": "./pick"}
    refused = command("tune", write_spec(folder, pick), "-q", "--no-progress", "-o", folder)
    assert refused.code == 2
    assert '`constraints: ["clip_score >= 0.99 x baseline", "diversity >= 0.95' in refused.err
    spec = write_spec(folder, {**pick, "constraints": GUARDS})
    outcome = command("tune", spec, "-q", "--no-progress", "-o", folder)
    assert outcome.code == 0, outcome.err
    measured = load(folder / "tuned.json").measure
    assert measured.metric == "PickScore(ViT-32x2/8@32)-250"
    # That which the score must not fall below is judged by a model too.
    hashes = {key: one.sha256 for key, one in measured.text_models.items()}
    assert hashes == {
        "pick_score": clip_files(folder / "pick").digest()[0],
        "clip_score": clip_files(folder / "clip").digest()[0],
    }


def test_workers_find_the_model_by_its_content(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, url = load_spec(write_spec(folder, {"metric": "clip_score"})), f"sqlite:///{tmp_path}/a"
    [source] = [one for one in sources_of(spec) if one.key == "objective.clip_model"]
    assert (source.name, source.url) == ("clip", None)
    study = open_study(spec, storage=url)
    with study.database:
        assert study.row.meaning["objective.clip_score.sha256"] == source.sha256
        assert study.measure["texts"]["clip_score"]["sha256"] == source.sha256
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(folder / "clip", elsewhere / "clip")
    with pytest.raises(ObjectiveError, match="SKIPTUNE_PATH") as caught:
        open_stored("text", storage=url)
    assert "fetch it from the hub" in render(caught.value)
    monkeypatch.setenv("SKIPTUNE_PATH", str(elsewhere))
    with open_stored("text", storage=url).database:
        pass
    # One of the same name and other weights is not it.
    shutil.rmtree(elsewhere / "clip")
    write_clip(elsewhere / "clip", seed=3)
    with pytest.raises(ObjectiveError, match="another file of this name"):
        open_stored("text", storage=url)
    shutil.move(elsewhere / "clip", folder / "clip")
    with pytest.raises(StudyChangedError, match=r"objective\.clip_score\.sha256"):
        open_study(spec, storage=url)
    shutil.rmtree(folder / "clip")
    with pytest.raises(ObjectiveError, match="clip: expected the folder of a CLIP model"):
        check_study(spec)
