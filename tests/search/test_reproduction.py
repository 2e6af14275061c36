"""An exported file alone, in a fresh process, gives the confirmed score to the last bit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from skiptune.errors import NetworkError, ObjectiveError, SpecError
from skiptune.objectives.extractors import load_extractor
from skiptune.objectives.reference import load_reference, reference_of, save_reference
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.images import sample
from skiptune.sampling.setting import Setting
from skiptune.search.reproduction import deciding_seeds, refuse_other_measure, reproduced
from skiptune.search.tuned import Tuned, load
from tests.command_line import Outcome

Command = Callable[..., Outcome]

IMAGES = 500  # d = 64: Frechet distances of fewer cannot be corrected
SETTING = {"solver": "dpmpp_2m", "steps": 3}


@pytest.fixture
def folder(
    tmp_path: Path,
    tiny_network: torch.nn.Module,
    write_checkpoint: Callable[..., Path],
    command: Command,
) -> Path:
    """What a finished study has handed over: its network, its reference and its tuned.json."""
    made = tmp_path / "made"
    made.mkdir()
    network = load_checkpoint(write_checkpoint(tiny_network, made / "tiny.safetensors")).network
    extractor = load_extractor("dct")
    batches = sample(network, Setting(steps=6), range(5_000_000, 5_000_500), microbatch=125)
    features = torch.cat([extractor(batch.images) for batch in batches]).numpy()
    save_reference(made / "reference.npz", reference_of(features, extractor=extractor, name="own"))
    spec = {
        "study": "round-trip",
        "network": {"checkpoint": "./tiny.safetensors"},
        "setting": SETTING,
        "space": {"kind": "per-skip", "low": 0.5, "high": 2.0},
        "objective": {"extractor": "dct", "reference": "./reference.npz"},
        "search": {"sampler": "random", "evaluations": 2, "rungs": [IMAGES]},
        "confirm": {"candidates": 1, "images": IMAGES, "controls": False},
        "microbatch": 125,
    }
    (made / "study.yaml").write_text(yaml.safe_dump(spec))
    done = command("tune", made / "study.yaml", "-q", "--no-progress", "-o", made)
    assert done.code == 0, done.err
    return made


def fresh(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command line in a process of its own, with this one's number of threads."""
    program = (
        "import sys, torch\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "from skiptune.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_file_alone_gives_the_confirmed_score_again(folder: Path, tmp_path: Path) -> None:
    # The study's own store is gone; what is left is what somebody is sent.
    sent = tmp_path / "sent"
    sent.mkdir()
    for name in ("tuned.json", "tiny.safetensors", "reference.npz"):
        shutil.copy(folder / name, sent)
    tuned = load(sent / "tuned.json")
    assert tuned.microbatch == 125
    words = ("score", sent / "tuned.json", "--confirmed", "--reference", sent / "reference.npz")
    done = fresh(*words, "--json")
    assert done.returncode == 0, done.stderr
    plain = json.loads(done.stdout)
    assert plain["seeds"] == [2_150_000, 2_150_000 + IMAGES - 1]
    found = {score["name"]: score["found"] for score in plain["scores"]}
    assert found == {
        "baseline": tuned.baseline.value,
        "tuned": tuned.tuned.value,
        "difference": tuned.tuned.difference,
    }
    assert plain["identical"] is True
    page = fresh(*words, "-q").stdout
    assert page.count("same bits") == 3
    assert max(map(len, page.splitlines())) <= 80


def edited(tuned: Tuned, change: Callable[[dict[str, Any]], object]) -> Tuned:
    plain = tuned.to_json()
    change(plain)
    return Tuned.from_json(plain)


def test_what_differs_is_told_and_what_is_other_is_refused(folder: Path, command: Command) -> None:
    tuned = load(folder / "tuned.json")
    checkpoint = load_checkpoint(folder / "tiny.safetensors")
    extractor = load_extractor("dct")
    reference = load_reference(folder / "reference.npz", extractor=extractor)

    # Other seeds are other numbers: nothing of what is found is taken from the file.
    moved = edited(tuned, lambda v: v["seeds"]["confirm B"].update(first=2_100_000))
    told: list[tuple[str, int]] = []
    rows = reproduced(
        moved, checkpoint, extractor, reference, on_images=lambda *now: told.append(now)
    )
    assert [row.name for row in rows] == ["baseline", "tuned", "difference"]
    assert not any(row.is_same for row in rows)
    assert told == [
        (label, done) for label in ("baseline", "tuned") for done in (125, 250, 375, 500)
    ]
    moved.write(folder / "moved.json")
    page = command("score", folder / "moved.json", "--confirmed", "--reference",
                   folder / "reference.npz")  # fmt: skip
    assert page.code == 0 and "same bits" not in page.out and "number of threads" in page.out
    assert "other numbers, not other roundings" in page.out

    # A last digit is no sign of an edited file.
    near = tuned.tuned.value * (1 + 1e-9)
    edited(tuned, lambda v: v["tuned"].update(value=near)).write(folder / "near.json")
    page = command("score", folder / "near.json", "--confirmed", "--reference",
                   folder / "reference.npz")  # fmt: skip
    assert page.out.count("same bits") == 2 and "number of threads" in page.out
    assert "other numbers" not in page.out

    assert deciding_seeds(tuned) == range(2_150_000, 2_150_000 + IMAGES)
    for change in (
        lambda v: v["seeds"].pop("confirm B"),
        lambda v: v["seeds"]["confirm B"].update(images=250),
    ):
        with pytest.raises(SpecError, match="seeds"):
            deciding_seeds(edited(tuned, change))
    for change in (
        lambda v: v["measure"].update(extractor_sha256="0" * 64),
        lambda v: v["measure"].update(reference_sha256="0" * 64),
    ):
        with pytest.raises(ObjectiveError, match="sha256 0000"):
            refuse_other_measure(edited(tuned, change), extractor, reference)
    with pytest.raises(SpecError, match="a metric of images' features"):
        refuse_other_measure(
            edited(tuned, lambda v: v["measure"].update(metric="pixel_loss-500")),
            extractor,
            reference,
        )
    assert refuse_other_measure(tuned, extractor, reference) == "fd"
    other = edited(tuned, lambda v: v["network"].update(sha256="0" * 64))
    with pytest.raises(NetworkError, match="sha256 0000"):
        reproduced(other, checkpoint, extractor, reference)


def test_what_the_file_says_is_not_asked_for(folder: Path, command: Command) -> None:
    path = folder / "tuned.json"
    for words, told in (
        ((path, "--num", "500"), "--num"),
        ((path, "--metric", "kid"), "--metric"),
        ((path, "--extractor", "dct"), "--extractor"),
        ((path,), "--reference"),
        ((folder,), "a TUNED.json"),
    ):
        done = command("score", *words, "--confirmed")
        assert done.code == 2
        assert told in done.err and "hint: " in done.err and done.out == ""
