"""`skiptune ref` and `skiptune score`: numbers without a study, through the command line."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from skiptune.commands.pictures import images_of
from skiptune.objectives import image_statistics
from skiptune.objectives.extractors import load_extractor
from skiptune.objectives.image_files import BLOCK, load_images
from skiptune.objectives.kid import kid
from skiptune.objectives.paired import corrected, paired_difference, raw
from skiptune.objectives.reference import load_reference, reference_of, save_reference
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search import chunks
from skiptune.search.tuned import Tuned
from tests.command_line import Outcome, write_spec

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def fashion_features() -> NDArray[np.float32]:
    images, _ = load_images("fashion-test")
    return load_extractor("fashion-cnn")(torch.from_numpy(images)).numpy()


def write_images(path: Path, count: int, size: int = 8) -> NDArray[np.uint8]:
    images = np.random.default_rng(0).integers(0, 256, (count, size, size), dtype=np.uint8)
    np.savez(path, images=images)
    return images


# score of images


def test_bundled_images_are_scored_with_nothing_but_skiptune(
    command: Command, fashion_features: NDArray[np.float32]
) -> None:
    outcome = command("score", "fashion-test", "--metric", "fd,kid", "--json")
    assert outcome.code == 0, outcome.err
    plain = json.loads(outcome.out)
    assert (plain["scored"], plain["images"]) == ("fashion-test", 1000)
    scores = {score["metric"]: score for score in plain["scores"]}
    reference = load_reference("fashion-train")
    fd = corrected(fashion_features, reference)
    kernel = kid(fashion_features, reference.require_features())
    for name, value, error in (
        ("FD(fashion-cnn)-1k-corrected", fd.value, fd.standard_error),
        ("FD(fashion-cnn)-1k", raw(fashion_features, reference).value, None),
        ("KID(fashion-cnn)-1k", kernel.value, kernel.standard_error),
    ):
        found = scores.pop(name)
        assert found["value"] == pytest.approx(value, rel=1e-9, abs=1e-12)
        assert found["standard_error"] == (
            None if error is None else pytest.approx(error, rel=1e-9)
        )
        assert (found["better"], found["images"]) == ("lower", 1000)
        assert found["extractor"]["extractor"] == "fashion-cnn"
        assert found["reference"]["digest"] == reference.digest
    assert scores == {}
    # Held-out images are as far as real ones are: zero within the error.
    assert abs(fd.value) < 3 * fd.standard_error


def test_scores_are_a_table_of_data_and_progress_is_talk(command: Command) -> None:
    names = "fd,kid,precision,recall,density,coverage"
    outcome = command("score", "fashion-test", "--metric", names)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("fashion-test: 1,000 images, features of fashion-cnn")
    for name in ("FD(fashion-cnn)-1k-corrected", "precision(fashion-cnn)-1k", "higher"):
        assert name in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "1,000/1,000 images" in outcome.err and "images" not in outcome.out.split("\n", 3)[3]
    quiet = command("score", "fashion-test", "-q")
    assert (quiet.code, quiet.err) == (0, "")


def test_too_few_images_are_not_corrected_and_it_is_said(
    command: Command, fashion_features: NDArray[np.float32]
) -> None:
    outcome = command("score", "fashion-test", "--num", "100", "--json")
    (score,) = json.loads(outcome.out)["scores"]
    reference = load_reference("fashion-train")
    assert score["metric"] == "FD(fashion-cnn)-100"
    assert score["value"] == pytest.approx(raw(fashion_features[:100], reference).value)
    assert "cannot be corrected below 256 images" in score["cautions"][0]
    page = command("score", "fashion-test", "--num", "100").out
    assert "Caution: 100 images" in page


def test_the_reference_decides_on_the_extractor(
    command: Command, tiny_study: ModuleType, study_folder: Path, tmp_path: Path
) -> None:
    images = write_images(tmp_path / "images.npz", 300)
    path = study_folder / "reference.npz"
    outcome = command("score", "images.npz", "--reference", path, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)["scores"][0]
    features = load_extractor(tiny_study.EXTRACTOR)(torch.from_numpy(images[:, None])).numpy()
    assert found["value"] == pytest.approx(corrected(features, load_reference(path)).value)
    assert found["metric"] == f"FD({tiny_study.EXTRACTOR})-300-corrected"


def test_one_call_takes_metrics_of_several_networks_with_their_references(
    command: Command, tiny_study: ModuleType, tmp_path: Path
) -> None:
    # A reference fits one network; the other one refuses it, before anything is extracted.
    write_images(tmp_path / "images.npz", 300, size=32)
    names = f"fd:{tiny_study.EXTRACTOR},fd:fashion-cnn"
    outcome = command("score", "images.npz", "--metric", names, "--reference", "fashion-train")
    assert outcome.code == 2 and "fashion-cnn" in outcome.err and not outcome.out
    outcome = command("score", "images.npz", "--metric", names, "--weights", "x.pt")
    assert "metrics of one feature network" in outcome.err


# score of a tuned.json


@pytest.fixture
def tuned(study_folder: Path, tiny_study: ModuleType) -> Path:
    """A tuned.json beside its network, whose schedule changes the images."""
    checkpoint = load_checkpoint(study_folder / "tiny.safetensors")
    score = {
        "label": "x", "images": 500, "nfe": 6.0, "value": 5.0, "standard_error": 0.1,
        "interval": [4.8, 5.2],
    }  # fmt: skip
    document = Tuned.of(
        Schedule.uniform({checkpoint.skips[0].address: 0.6}),
        skips=checkpoint.skips,
        study="tiny",
        network={"name": "tiny.safetensors", "sha256": checkpoint.sha256},
        setting=Setting(steps=3).to_json(),
        verdict={"verdict": "not confirmed"},
        measure={
            "metric": "FD",
            "extractor": tiny_study.EXTRACTOR,
            "extractor_sha256": "0" * 64,
            "reference": "own images",
            "reference_sha256": load_reference(study_folder / "reference.npz").digest,
        },
        baseline=score,
        tuned=score,
        seeds={"search": {"first": 1_000_000, "images": 500}},
        provenance={"skiptune": "0.1", "created": "2026-11-23T00:00:00+00:00"},
    )
    document.write(study_folder / "tuned.json")
    return study_folder / "tuned.json"


def test_a_tuned_number_of_the_setting_is_scored_with_the_scales(
    command: Command, tuned: Path, tiny_study: ModuleType
) -> None:
    """The untouched network at its own setting, the scales at theirs."""
    document = json.loads(tuned.read_text())
    own = document["setting"]
    document |= {"setting": {**own, "epsilon_scale": 1.2}, "untouched_setting": own}
    tuned.write_text(json.dumps(document))
    words = ("score", tuned, "--reference", tuned.parent / "reference.npz", "--num", "100")
    outcome = command(*words, "--json")
    assert outcome.code == 0, outcome.err
    found, _ = json.loads(outcome.out)["scores"]  # corrected, and raw
    extractor = load_extractor(tiny_study.EXTRACTOR)
    network = load_checkpoint(tuned.parent / "tiny.safetensors")
    schedule = Schedule.uniform({document["skips"][0]["address"]: 0.6})
    reference = load_reference(tuned.parent / "reference.npz")
    for key, setting, scales in (
        ("baseline", Setting(steps=3), None),
        ("tuned", Setting(steps=3, epsilon_scale=1.2), schedule),
    ):
        images = images_of(network, setting, scales, range(100))
        wanted = corrected(extractor(torch.from_numpy(images)).numpy(), reference)
        assert found[key]["value"] == pytest.approx(wanted.value, rel=1e-9)
    assert "epsilon_scale 1.2" in command(*words).out

    # An earlier version did not write what the untouched network's setting was.
    del document["untouched_setting"]
    document["controls"] = [{**document["tuned"], "label": "its setting alone"}]
    tuned.write_text(json.dumps(document))
    refused = command(*words)
    assert refused.code == 2
    assert "skiptune export" in refused.err


def test_tuned_scales_are_scored_beside_the_baseline_on_the_same_seeds(
    command: Command, tuned: Path, tiny_study: ModuleType
) -> None:
    path = tuned.parent / "reference.npz"
    words = ("score", tuned, "--reference", path, "--metric", "fd,nfe", "--num", "200")
    outcome = command(*words, "--json")
    assert outcome.code == 0, outcome.err
    fd, plain, nfe = json.loads(outcome.out)["scores"]
    extractor = load_extractor(tiny_study.EXTRACTOR)
    network = load_checkpoint(tuned.parent / "tiny.safetensors")
    document = json.loads(tuned.read_text())
    schedule = Schedule.uniform({document["skips"][0]["address"]: 0.6})
    features = [
        extractor(torch.from_numpy(images_of(network, Setting(steps=3), s, range(200))))
        for s in (None, schedule)
    ]
    base, ours = (rows.numpy() for rows in features)
    reference = load_reference(path)
    for found, rows in ((fd["baseline"], base), (fd["tuned"], ours)):
        wanted = corrected(rows, reference)
        assert found["value"] == pytest.approx(wanted.value, rel=1e-9)
        assert found["standard_error"] == pytest.approx(wanted.standard_error, rel=1e-9)
    difference = paired_difference(ours, base, reference)
    assert fd["difference"]["value"] == pytest.approx(difference.value, rel=1e-6)
    assert fd["difference"]["standard_error"] == pytest.approx(difference.standard_error, rel=1e-6)
    # Raw values have a bias in N that differences do not lose.
    assert plain["difference"] is None
    assert plain["tuned"]["value"] == pytest.approx(raw(ours, reference).value, rel=1e-9)
    assert nfe["baseline"]["value"] == nfe["tuned"]["value"] == 3.0
    page = command(*words).out
    assert "tuned - baseline, paired" in page and "lower is better" in page
    assert max(map(len, page.splitlines())) <= 80


def test_another_reference_than_the_study_s_is_told(
    command: Command, tuned: Path, tiny_study: ModuleType
) -> None:
    extractor = load_extractor(tiny_study.EXTRACTOR)
    rows = np.random.default_rng(0).standard_normal((100, tiny_study.FEATURES))
    save_reference(
        tuned.parent / "other.npz", reference_of(rows, extractor=extractor, name="other")
    )
    other = command("score", tuned, "--reference", tuned.parent / "other.npz", "--num", "130")
    assert "called own images" in other.out.replace("\n", " ")


# ref


def test_ref_equals_the_library_and_serves_score(
    command: Command, tmp_path: Path, fashion_features: NDArray[np.float32]
) -> None:
    words = ("ref", "fashion-test", "-o", "stats.npz", "--extractor", "fashion-cnn")
    outcome = command(*words, "--features", "200", "--json")
    assert outcome.code == 0, outcome.err
    plain = json.loads(outcome.out)
    extractor = load_extractor("fashion-cnn")
    made = load_reference(tmp_path / "stats.npz", extractor=extractor)
    wanted = reference_of(fashion_features, extractor=extractor, name="stats", keep=200)
    np.testing.assert_allclose(made.mean, wanted.mean, rtol=1e-12)
    np.testing.assert_allclose(made.covariance, wanted.covariance, rtol=0, atol=1e-11)
    np.testing.assert_array_equal(made.require_features(200), wanted.features)
    assert (plain["images"], plain["features"], plain["digest"]) == (1000, 200, made.digest)
    assert "Wrote stats.npz: 1,000 images" in outcome.err
    again = command(*words)
    assert again.code == 2 and "--force" in again.err
    score = command("score", "fashion-test", "--reference", "stats.npz", "--metric", "kid", "-q")
    assert score.code == 0 and "KID(fashion-cnn)-1k" in score.out


def test_ref_reads_a_folder_of_gray_images_as_rgb_when_asked(
    command: Command, tiny_study: ModuleType, tmp_path: Path
) -> None:
    for index, image in enumerate(write_images(tmp_path / "images.npz", 20)):
        (tmp_path / "folder").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "folder" / f"{index:02d}.png")
    words = ("ref", "folder", "--extractor", tiny_study.EXTRACTOR, "--features", "0", "--json")
    gray = command(*words, "-o", "gray.npz")
    assert json.loads(gray.out)["header"]["shape"] == [1, 8, 8]
    part = command(*words, "-o", "part.npz", "--num", "10")
    assert json.loads(part.out)["images"] == 10
    assert "no random part" in part.err
    rgb = command(*words, "-o", "rgb.npz", "--rgb")
    # This network's features are of one channel.
    assert rgb.code == 2 or json.loads(rgb.out)["header"]["shape"] == [3, 8, 8]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)]
)
def test_a_stopped_ref_goes_on_when_it_is_run_again(
    command: Command,
    tiny_study: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    write_images(tmp_path / "images.npz", 4 * BLOCK)
    words = ("ref", "images.npz", "--extractor", tiny_study.EXTRACTOR)
    assert command(*words, "-o", "whole.npz", "-q").code == 0
    seen: list[int] = []
    original = image_statistics._extracted

    def extracted(*arguments: Any) -> NDArray[np.float32]:
        seen.append(1)
        if len(seen) == 2:
            os.kill(os.getpid(), number)
        return original(*arguments)

    monkeypatch.setattr(image_statistics, "_extracted", extracted)
    outcome = command(*words)
    assert outcome.code == code
    assert "Go on with: skiptune ref images.npz --extractor" in outcome.err
    assert outcome.out == "" and not (tmp_path / "stats.npz").exists()
    done = command(*words)
    assert done.code == 0 and len(seen) == 4
    assert "stats.npz: 500/1,000 images" in done.err
    whole, made = (load_reference(tmp_path / name) for name in ("whole.npz", "stats.npz"))
    assert made.digest == whole.digest and made.features_digest == whole.features_digest
    assert not (tmp_path / "stats.npz.part").exists()


# Bad input


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("score", "fashion-test", "--metric", "kdi"), "did you mean kid?"),
        (("score", "fashion-test", "--metric", "recal,fdd"), "'fdd'"),
        (("score", "fashion-test", "--metric", ""), "found: ''"),
        (("score", "fashion-test", "--metric", "feature_loss"), "measured in a study"),
        (("score", "fashion-test", "--metric", "nfe"), "expected: one of fd, kid"),
        (("score", "fashion-test", "--metric", "fid", "--extractor", "dinov2"), "inception"),
        (("score", "fashion-test", "--num", "1001"), "found: 1,000 images"),
        (("score", "fashion-test", "--metric", "recall", "--num", "999"), "at least 1,000"),
        (("score", "fashion-test", "--checkpoint", "x"), "a TUNED.json to sample"),
        (("score", "fashion-tset"), "did you mean fashion-test"),
        (("score", "nowhere"), "no such file, and no study of this name"),
        (("score", "nowhere", "--metric", "kid"), "skiptune status"),
        (("score", "fashion-tset", "--reference", "fashion-train"), "did you mean fashion-test"),
        (("score", "images", "--reference", "fashion-train"), "an empty folder"),
        (("score", "small.npz", "--reference", "fashion-train"), "[250, 1, 8, 8]"),
        (("score", "fashion-test", "--reference", "edm.npz"), "inception"),
        (("score", "fashion-test", "--reference", "evil.pkl"), "posix.system"),
        (("score", "fashion-test", "--reference", "bare.npz", "--metric", "kid"), "--features"),
        (("score", "fashion-test", "--weights", "small.npz"), "sha256"),
        (("score", "fashion-test", "--device", "cuda:99"), "--device cuda:99"),
        (("score", "none.json"), "none.json"),
        (("score", "list.json"), "skiptune.tuned"),
        (("ref", "images"), "an empty folder"),
        (("ref", "fashion-test", "--extractor", "fashion"), "fashion-cnn"),
        (("ref", "fashion-test", "-o", "stats.pt"), "NAME.npz"),
        (("ref", "small.npz", "-o", "small.npz", "--force"), "the images themselves"),
        (("ref", "small.npz", "-o", "none/stats.npz"), "-o none/stats.npz"),
        (("ref", "small.npz", "--extractor", "fashion-cnn"), "fashion-cnn"),
    ],
)
def test_bad_input_ends_in_two_and_one_message(
    command: Command, tmp_path: Path, words: tuple[str, ...], found: str
) -> None:
    (tmp_path / "images").mkdir()
    write_images(tmp_path / "small.npz", 300)
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "evil.pkl").write_bytes(b"\x80\x02cposix\nsystem\n(U\x04touchtR.")
    extractor = load_extractor("fashion-cnn")
    rows = np.random.default_rng(0).standard_normal((100, 64))
    bare = reference_of(rows, extractor=extractor, name="bare")
    save_reference(tmp_path / "bare.npz", bare)
    if "edm.npz" in words:
        np.savez(tmp_path / "edm.npz", mu=np.zeros(64), sigma=np.eye(64))
    before = sorted(tmp_path.rglob("*"))
    outcome = command(*words)
    text = outcome.err
    assert outcome.code == 2, text
    assert outcome.out == "" and "Traceback" not in text
    assert "error: " in text and "\nhint: " in text
    assert found in text
    assert sorted(tmp_path.rglob("*")) == before


def test_a_reference_of_another_program_is_scored_with_its_cautions(
    command: Command,
    tiny_study: ModuleType,
    tmp_path: Path,
    fashion_features: NDArray[np.float32],
) -> None:
    made = reference_of(
        fashion_features, extractor=load_extractor("fashion-cnn"), name="foreign", keep=10
    )
    save_reference(tmp_path / "r.npz", replace(made, cautions=("Nobody knows the resize.",)))
    outcome = command("score", "fashion-test", "--reference", "r.npz")
    assert "Caution: Nobody knows the resize." in outcome.out
    plain = json.loads(command("score", "fashion-test", "--reference", "r.npz", "--json").out)
    assert plain["scores"][0]["cautions"] == ["Nobody knows the resize."]


# score of a study


def test_a_finished_study_is_scored_without_sampling(
    command: Command,
    tiny_study: ModuleType,
    study_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = {"search__evaluations": 3, "search__rungs": [250], "confirm__images": 250}
    assert command("tune", write_spec(tiny_study, study_folder, **changes), "-q").code == 0

    def sample(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("an image was sampled")

    monkeypatch.setattr(chunks, "sample", sample)
    own = command("score", "tiny", "--json", "--top", "2")
    assert own.code == 0, own.err
    rows = json.loads(own.out)["scores"]
    assert (rows[0]["label"], rows[0]["block"]) == ("baseline", "search")
    status = json.loads(command("status", "tiny", "--json").out)
    assert rows[0]["value"] == status["baseline"]["value"]
    # Against other real images the same images have other distances.
    other = np.random.default_rng(4).standard_normal((600, tiny_study.FEATURES))
    extractor = tiny_study._factory(weights=None, sha256=None)
    reference = reference_of(other.astype(np.float32), extractor=extractor, name="o", keep=600)
    save_reference("other.npz", reference)
    outcome = command("score", "tiny", "--metric", "fd,kid", "--reference", "other.npz")
    assert outcome.code == 0, outcome.err
    assert "KID(pooled-pixels)-250, seeds of search" in outcome.out
    assert "confirm-1/B" in outcome.out
    for words, said in (
        (("--num", "500"), "leave --num out"),
        (("--metric", "kidd"), "did you mean"),
        (("--metric", "kid"), "features"),
    ):
        refused = command("score", "tiny", *words)
        assert refused.code == 2
        assert said in refused.err
