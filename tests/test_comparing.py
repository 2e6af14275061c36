"""`skiptune sample --compare`: scores of schedules side by side, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from skiptune.commands.pictures import images_of
from skiptune.objectives.extractors import load_extractor
from skiptune.objectives.paired import paired_difference
from skiptune.objectives.reference import Reference, load_reference
from skiptune.sampling.checkpoint import Checkpoint, load_checkpoint
from tests.command_line import Outcome
from tests.test_sampling import SETTING, schedule_of, write

Command = Callable[..., Outcome]
Array = NDArray[np.float64]


@pytest.fixture
def network(study_folder: Path) -> Checkpoint:
    return load_checkpoint(study_folder / "tiny.safetensors")


@pytest.fixture
def tuned(network: Checkpoint, study_folder: Path) -> Path:
    return write(network, study_folder / "tuned.json", 0.4)


@pytest.fixture
def other(network: Checkpoint, study_folder: Path) -> Path:
    return write(network, study_folder / "other.json", 1.8)


def test_schedules_are_held_against_the_first_in_pairs(
    command: Command, tuned: Path, other: Path, network: Checkpoint, tiny_study: ModuleType
) -> None:
    path = tuned.parent / "reference.npz"
    words = ("sample", "--compare", "baseline", tuned, other, "--seeds", "0-3", "--num", "150")
    done = command(*words, "--reference", path, "--json")
    assert done.code == 0, done.err
    scores = json.loads(done.out)["scores"]
    assert [score["label"] for score in scores] == ["baseline", "tuned", "other"]
    extractor, reference = load_extractor(tiny_study.EXTRACTOR), load_reference(path)
    features = [
        extractor(torch.from_numpy(images_of(network, SETTING, schedule, range(150)))).numpy()
        for schedule in (None, schedule_of(network, 0.4), schedule_of(network, 1.8))
    ]
    assert scores[0]["difference"] is None
    for score, rows in zip(scores[1:], features[1:], strict=True):
        wanted = paired_difference(rows, features[0], reference)
        assert score["difference"]["value"] == pytest.approx(wanted.value, rel=1e-6)
        error = score["difference"]["standard_error"]
        assert error == pytest.approx(wanted.standard_error, rel=1e-6)
    page = command(*words, "--reference", path, "--force")
    assert "minus baseline, paired [95 %]" in page.out
    assert max(map(len, page.out.splitlines())) <= 80
    assert "Pictures decide nothing" not in page.err

    # The first one named is what the others are held against.
    turned_words = ("--compare", other, "baseline", "--seeds", "0", "--num", "150", "--force")
    done = command("sample", *turned_words, "--reference", path, "--json")
    turned = json.loads(done.out)["scores"][1]["difference"]
    assert turned["value"] == pytest.approx(-scores[2]["difference"]["value"], rel=1e-6)


def frechet(weights: Array, rows: Array, real: Reference) -> float:
    """The distance of weighted images (Heusel et al. 2017, arXiv 1706.08500, equation 6)."""
    weights = weights / weights.sum()
    count = int((weights > 0).sum())
    mean = weights @ rows
    spread = (rows - mean).T @ ((rows - mean) * weights[:, None]) * count / (count - 1)
    values, vectors = np.linalg.eigh(real.covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = np.sqrt(np.linalg.eigvalsh(root @ spread @ root).clip(0)).sum()
    return float(
        ((mean - real.mean) ** 2).sum() + np.trace(spread + real.covariance) - 2 * product
    )


def by_hand(rows: Array, real: Reference) -> tuple[float, Array]:
    """The corrected distance, and what a little more of each image would change in it."""

    def corrected(weights: Array) -> float:
        group = np.arange(len(rows)) % 4
        parts = [
            np.mean([frechet(weights * ~np.isin(group, left), rows, real) for left in lefts])
            for lefts in (list(combinations(range(4), 1)), list(combinations(range(4), 2)))
        ]
        return float(8 * frechet(weights, rows, real) - 9 * parts[0] + 2 * parts[1])

    count, step = len(rows), 1e-5
    even = np.full(count, 1 / count)
    slopes = [
        (corrected(even + step * (unit - even)) - corrected(even - step * (unit - even)))
        / (2 * step)
        for unit in np.eye(count)
    ]
    return corrected(even), np.array(slopes)


def test_intervals_are_those_of_the_differences_image_by_image(
    command: Command, tuned: Path, network: Checkpoint, tiny_study: ModuleType
) -> None:
    count = 152  # four groups of equal size
    path = tuned.parent / "reference.npz"
    words = ("sample", "--compare", "baseline", tuned, "--seeds", "0", "--num", str(count))
    done = command(*words, "--reference", path, "--json")
    assert done.code == 0, done.err
    scores = json.loads(done.out)["scores"]
    extractor, real = load_extractor(tiny_study.EXTRACTOR), load_reference(path)
    found = []
    for score, schedule in zip(scores, (None, schedule_of(network, 0.4)), strict=True):
        made = torch.from_numpy(images_of(network, SETTING, schedule, range(count)))
        value, slopes = by_hand(extractor(made).numpy().astype(np.float64), real)
        assert score["value"] == pytest.approx(value, rel=1e-5)
        found.append((value, slopes))
    (before, old), (after, new) = found
    error = (new - old).std(ddof=1) / count**0.5
    apart = (new.var(ddof=1) + old.var(ddof=1)) ** 0.5 / count**0.5
    assert error < 0.9 * apart, "pairs tell more than two samples"
    told = scores[1]["difference"]
    assert told["value"] == pytest.approx(after - before, rel=1e-4)
    # To N or N - 1, which the derivative of a covariance may be divided by.
    assert told["standard_error"] == pytest.approx(error, rel=1e-3)
    half = 1.959964 * error
    ends = [after - before - half, after - before + half]
    assert told["interval"] == pytest.approx(ends, abs=1e-3 * error)


def test_the_reference_of_the_study_is_found_beside_the_file(
    command: Command, tuned: Path, network: Checkpoint, study_folder: Path, tiny_study: ModuleType
) -> None:
    measure = {
        "metric": "FD",
        "extractor": tiny_study.EXTRACTOR,
        "extractor_sha256": "0" * 64,
        "reference": "reference",
        "reference_sha256": "1" * 64,
    }
    (study_folder / "told").mkdir()
    told = write(network, study_folder / "told" / "tuned.json", 0.4, measure=measure)
    place = study_folder / "told" / "reference.npz"
    words = ("--checkpoint", study_folder / "tiny.safetensors", "--num", "150", "--json")
    lines = ("sample", "--compare", told, "--seeds", "0", "--force", *words)
    for missing in (command(*lines), command("score", told, *words)):
        assert missing.code == 2 and "error: --reference" in missing.err
    place.write_bytes((study_folder / "reference.npz").read_bytes())
    compared, scored = command(*lines), command("score", told, *words)
    assert (compared.code, scored.code) == (0, 0), compared.err + scored.err
    rows, (corrected, _) = (json.loads(one.out)["scores"] for one in (compared, scored))
    # Both commands say the same of the same seeds, and of what they were held against.
    for row, side in zip(rows, ("baseline", "tuned"), strict=True):
        assert row["value"] == corrected[side]["value"]
        assert row["interval"] == corrected[side]["interval"]
        for key in ("extractor", "reference", "cautions"):
            assert row[key] == corrected[key]
    assert rows[1]["difference"] == corrected["difference"]
    assert rows[0]["reference"]["name"] == "own images"
    assert "scored against other statistics" in rows[0]["cautions"][0]
    page = command(*lines[:-1])
    assert "Caution: The study was scored against other statistics" in page.out


def test_pairs_are_of_equal_labels(
    command: Command, tuned: Path, network: Checkpoint, study_folder: Path
) -> None:
    one = write(network, study_folder / "one.json", 0.4, setting=replace(SETTING, labels=1))
    words = ("--num", "150", "--reference", study_folder / "reference.npz", "--seeds", "0")
    refused = command("sample", "--compare", tuned, one, *words)
    assert refused.code == 2
    assert "error: one: setting.labels" in refused.err and "expected: random" in refused.err
    assert command("sample", "--compare", tuned, one, "--seeds", "0").code == 0


def test_a_file_that_is_called_baseline_is_not_taken_for_it(
    command: Command, tuned: Path, study_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study_folder)
    (study_folder / "baseline.json").write_bytes(tuned.read_bytes())
    words = ("sample", "--compare", "baseline", "baseline.json", "--seeds", "0", "--json")
    assert json.loads(command(*words).out)["rows"] == ["baseline", "baseline.json"]
    twice = command("sample", "--compare", "tuned.json", "./tuned.json", "--seeds", "0")
    assert twice.code == 2 and "every name once" in twice.err


def test_files_whose_names_differ_in_the_end_alone_are_told_apart(
    command: Command, tuned: Path, other: Path
) -> None:
    backup = tuned.with_suffix(".bak")
    backup.write_bytes(tuned.read_bytes())
    words = ("sample", "--compare", tuned, backup, other, "--seeds", "0", "--json")
    assert json.loads(command(*words).out)["rows"] == [str(tuned), str(backup), "other"]
