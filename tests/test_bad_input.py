"""Bad input, through the command line: exit 2, one readable message, and nothing is touched.

Every case runs in a process of its own (`command_server.py`) in a fresh copy of a folder that
holds a network, references, study files and databases, good and bad ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from skiptune.objectives.names import ASSETS
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.networks import build
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.search.spec import StudySpec
from skiptune.search.study import open_study
from skiptune.search.tuned import Tuned
from skiptune.storage.database import init_database

SERVER = Path(__file__).with_name("command_server.py")
NETWORK: dict[str, Any] = {
    "precond": "edm", "sigma_data": 0.5, "img_resolution": 32, "img_channels": 1, "label_dim": 10,
    "model_channels": 8, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [],
}  # fmt: skip


def _save(path: Path, *, described: dict[str, Any] | None = None, **changes: Any) -> None:
    torch.manual_seed(0)
    config = {**NETWORK, **changes}
    save_file(
        build(config).state_dict(),
        path,
        metadata={"skiptune.network": json.dumps(described or config)},
    )


def _write_references(folder: Path) -> None:
    with np.load(ASSETS / "fashion-train.npz") as file:
        header, mean, covariance = (
            json.loads(str(file["header"])),
            file["mean"],
            file["covariance"],
        )
    np.savez(folder / "good.npz", header=json.dumps(header), mean=mean, covariance=covariance)
    forged: dict[str, tuple[dict[str, Any], Any, Any]] = {
        "extractor": ({**header, "extractor": "inception"}, mean, covariance),
        "weights": ({**header, "sha256": "0" * 64}, mean, covariance),
        "dimension": ({**header, "dim": 32}, mean[:32], covariance[:32, :32]),
        "nan": (header, np.where(np.arange(64) == 7, np.nan, mean), covariance),
        "pixels": ({**header, "more": {"shape": [3, 64, 64]}}, mean, covariance),
        "not-psd": (header, mean, covariance - 0.5 * np.trace(covariance) * np.eye(64)),
    }
    for name, (head, center, spread) in forged.items():
        np.savez(folder / f"{name}.npz", header=json.dumps(head), mean=center, covariance=spread)


def _tuned(folder: Path) -> Tuned:
    checkpoint = load_checkpoint(folder / "small.safetensors")
    score = {
        "label": "x", "images": 500, "nfe": 6.0, "value": 5.0, "standard_error": 0.1,
        "interval": [4.8, 5.2],
    }  # fmt: skip
    return Tuned.of(
        Schedule.uniform({checkpoint.skips[0].address: 0.9}),
        skips=checkpoint.skips,
        study="taken",
        network={"name": "small.safetensors", "sha256": checkpoint.sha256},
        setting=Setting().to_json(),
        verdict={"verdict": "not confirmed"},
        measure={
            "metric": "FD(fashion-cnn)-500-corrected",
            "extractor": "fashion-cnn",
            "extractor_sha256": "0" * 64,
            "reference": "fashion-train",
            "reference_sha256": "0" * 64,
        },
        baseline=score,
        tuned=score,
        seeds={"search": {"first": 1_000_000, "images": 500}},
        provenance={"skiptune": "0.1", "created": "2026-11-23T00:00:00+00:00"},
    )


@pytest.fixture(scope="module")
def prepared() -> Iterator[Path]:
    """The folder that each case gets a copy of."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "prepared"
        folder.mkdir()
        _save(folder / "small.safetensors")
        _save(folder / "other.safetensors", model_channels=16)
        _save(folder / "mislabelled.safetensors", described={**NETWORK, "model_channels": 16})
        _save(folder / "tiny-images.safetensors", img_resolution=8)
        _save(folder / "narrow.safetensors", sigma_min=0.01)
        whole = (folder / "small.safetensors").read_bytes()
        (folder / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
        torch.save({"a": torch.zeros(1)}, folder / "pickle.pt")
        _write_references(folder)
        spec = {
            "study": "new",
            "network": {"checkpoint": "small.safetensors"},
            "objective": {"extractor": "fashion-cnn", "reference": "good.npz"},
            "search": {"evaluations": 2, "rungs": [500]},
        }
        (folder / "study.yaml").write_text(yaml.safe_dump(spec))
        (folder / "list.yaml").write_text("- one\n- two\n")
        (folder / "broken.yaml").write_text("study: [one\nnetwork: }\n")
        (folder / "binary.yaml").write_bytes(whole[:200] + b"\xff\xfe")
        spec["study"] = "taken"
        paths = {"checkpoint": str(folder / "small.safetensors")}
        with contextlib.chdir(folder):
            stored = {**spec, "network": paths}
            open_study(
                StudySpec.from_json(stored), storage="sqlite:///skiptune.db"
            ).database.close()
        init_database(f"sqlite:///{folder / 'newer.db'}").close()
        with contextlib.closing(sqlite3.connect(folder / "newer.db")) as connection:
            connection.execute("UPDATE skiptune_alembic_version SET version_num = '9999'")
            connection.commit()
        (folder / "text.db").write_text("this is no database\n" * 100)
        _tuned(folder).write(folder / "tuned.json")
        (folder / "file").write_text("not a folder\n")
        (folder / "locked").mkdir()
        shutil.copy(folder / "skiptune.db", folder / "locked" / "skiptune.db")
        yield folder


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def server() -> Iterator[Callable[[Sequence[str], Path], Done]]:
    """A function that runs a command line in a folder."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SKIPTUNE_")}
    process = subprocess.Popen(
        [sys.executable, str(SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name, "out"), Path(name, "err")

        def run(words: Sequence[str], folder: Path) -> Done:
            job = {"words": words, "folder": str(folder), "out": str(out), "err": str(err)}
            stdin.write(json.dumps(job) + "\n")
            stdin.flush()
            return Done(int(stdout.readline()), out.read_text(), err.read_text())

        yield run
    stdin.close()
    stdout.close()
    assert process.wait(timeout=30) == 0


@pytest.fixture
def folder(prepared: Path) -> Iterator[Path]:
    """A copy of the prepared folder in which nobody may write what is `locked`."""
    copy = Path(shutil.copytree(prepared, prepared.parent / "case"))
    os.chmod(copy / "locked" / "skiptune.db", 0o444)
    os.chmod(copy / "locked", 0o555)
    yield copy
    os.chmod(copy / "locked", 0o755)
    shutil.rmtree(copy)


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder, by its relative path; folders are there too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


def setting(text: str) -> tuple[str, ...]:
    return ("tune", "study.yaml", "-s", text)


def network(name: str) -> tuple[str, ...]:
    return setting(f"network.checkpoint={name}.safetensors")


def reference(name: str) -> tuple[str, ...]:
    return setting(f"objective.reference={name}.npz")


def storage(url: str) -> tuple[str, ...]:
    return ("tune", "study.yaml", "--storage", url)


OTHER = ("--checkpoint", "other.safetensors", "-o", "new.png")

# What is wrong: (words of the command line, part of `error:`, part of `found:`).
CASES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "spec missing": (("tune", "nowhere.yaml"), "nowhere.yaml", "no such file"),
    "spec and preset missing": (("tune", "fashoin"), "fashoin", "neither"),
    "spec not YAML": (("tune", "broken.yaml"), "broken.yaml:2", ""),
    "spec no mapping": (("check", "list.yaml"), "list.yaml", '["one", "two"]'),
    "spec binary": (("tune", "binary.yaml"), "binary.yaml", "binary data"),
    "spec a folder": (("tune", "./locked"), "locked", "a folder"),
    "unknown key": (setting("space.lwo=0.7"), "-s space.lwo", "unknown key `lwo`"),
    "wrong type": (setting("setting.steps=six"), "-s setting.steps", '"six" (text)'),
    "low above high": (setting("space={low: 0.9, high: 0.8}"), "high", "0.8"),
    "zero steps": (setting("setting.steps=0"), "-s setting.steps", "0"),
    "not KEY=VALUE": (setting("space"), "-s space", "space"),
    "unknown sampler": (setting("search.sampler=tpee"), "search.sampler", '"tpee"'),
    "unknown solver": (setting("setting.solver=rk4"), "setting.solver", '"rk4"'),
    "unknown space": (setting("space.kind=quadratic"), "space.kind", '"quadratic"'),
    "unknown extractor": (setting("objective.extractor=vgg"), "objective.extractor", '"vgg"'),
    "skip missing": (setting("space.skips=[9x9_block0]"), "space.skips[0]", '"9x9_block0"'),
    "label out of range": (setting("setting.labels=10"), "setting.labels", "10"),
    "sigma of another network": (network("narrow"), "study.yaml: setting.sigma_min", "0.002"),
    "churn of a solver without": (
        setting("setting={solver: unipc, churn: {amount: 2.5}}"),
        "setting.churn.amount",
        "2.5",
    ),
    "too few images": (setting("search.rungs=[250]"), "search.rungs", "250"),
    "no such device": ((*setting("study=x"), "--device", "tpu"), "--device tpu", "tpu"),
    "checkpoint missing": (network("none"), "none.safetensors", "no such file"),
    "checkpoint truncated": (network("truncated"), "truncated.safetensors", "bytes"),
    "checkpoint of another architecture": (network("mislabelled"), "mislabelled", "shapes: "),
    "checkpoint of another image size": (network("tiny-images"), "", "8, 8]"),
    "checkpoint a pickle": (setting("network.checkpoint=pickle.pt"), "pickle.pt", "a pickle"),
    "checkpoint of another hash": (setting(f"network.sha256={'0' * 64}"), "sha256", ""),
    "reference missing": (reference("none"), "none.npz", "no such file"),
    "reference of another extractor": (reference("extractor"), "extractor.npz", "inception"),
    "reference of other weights": (reference("weights"), "weights.npz", "0" * 64),
    "reference of other pixels": (reference("pixels"), "pixels.npz: images", "[3, 64, 64]"),
    "reference of another dimension": (reference("dimension"), "dimension", "32"),
    "reference with NaN": (reference("nan"), "", "NaN"),
    "reference not PSD": (reference("not-psd"), "", ""),
    "reference no npz": (setting("objective.reference=tuned.json"), "tuned.json", ""),
    "database unreachable": (storage("sqlite:///nowhere/x.db"), "", "No such file"),
    "database below a file": (storage("sqlite:///file/x.db"), "file", "Not a directory"),
    "database a folder": (storage("sqlite:///locked"), "sqlite:///locked", ""),
    "database no database": (storage("sqlite:///text.db"), "text.db", "not a database"),
    "database no URL": (storage("studies"), "studies", "no database URL"),
    "database newer": (storage("sqlite:///newer.db"), "newer.db", "newer schema 9999"),
    "database read-only": (storage("sqlite:///locked/skiptune.db"), "locked/skiptune.db", ""),
    "database missing": (("status", "--storage", "sqlite:///x.db"), "x.db", "no such file"),
    "study unknown": (("status", "takne"), "skiptune.db", "takne"),
    "study without results": (("export", "taken", "-o", "new.json"), "study taken", "none"),
    "study name taken": (
        ("tune", "study.yaml", "-s", "study=taken", "-s", "setting.steps=9"),
        "study.yaml: setting.steps",
        "9 (given)",
    ),
    "output folder locked": (
        ("tune", "study.yaml", "-o", "locked/new"),
        "locked/new",
        "Permission denied",
    ),
    "output folder in /proc": (("tune", "study.yaml", "-o", "/proc/new"), "/proc/new", "/proc"),
    "output below a file": (
        ("tune", "study.yaml", "-o", "file/new"),
        "file/new",
        "Not a directory",
    ),
    "output locked": (("init", "locked/study.yaml"), "locked/study.yaml", "Permission denied"),
    "output there": (("init", "study.yaml"), "study.yaml", "an existing file"),
    "results of another study": (("tune", "study.yaml"), "tuned.json", "of study taken"),
    "tuned.json missing": (("sample", "none.json"), "none.json", "no such file"),
    "tuned.json not JSON": (("sample", "list.yaml"), "list.yaml", ""),
    "tuned.json of another network": (("sample", "tuned.json", *OTHER), "network", "sha256"),
    "seeds": (("sample", "tuned.json", "--seeds", "5-3"), "--seeds 5-3", "'5-3'"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(server: Callable[[Sequence[str], Path], Done], folder: Path, case: str) -> None:
    words, where, found = CASES[case]
    if case != "results of another study" and words[0] == "tune" and "-o" not in words:
        words = (*words, "-o", "out")
    before = contents(folder)
    done = server(words, folder)
    assert done.code == 2, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    *problems, gap, hint = done.err.splitlines()
    assert gap == ""
    assert hint.startswith("hint: ")
    assert len(hint) > 12
    shape = ("error: ", "       expected: ", "       found: ")
    assert len(problems) % 3 == 0
    assert all(line.startswith(shape[i % 3]) for i, line in enumerate(problems))
    assert all(len(line) > len(shape[i % 3]) for i, line in enumerate(problems))
    told = [tuple(problems[i : i + 3]) for i in range(0, len(problems), 3)]
    assert any(where in first and found in last for first, _, last in told), done.err
    assert contents(folder) == before


def test_all_problems_come_at_once(
    server: Callable[[Sequence[str], Path], Done], folder: Path
) -> None:
    words = [*setting("setting.solver=rk4"), "-s", "space.lwo=1", "-s", "confirm.alpha=2"]
    err = server(words, folder).err
    assert err.count("error: ") == 3
    assert err.count("hint: ") == 1


@pytest.mark.parametrize("program", [[sys.executable, "-m", "skiptune"], ["skiptune"]])
def test_the_installed_commands_end_alike(folder: Path, program: list[str]) -> None:
    if program == ["skiptune"]:
        program = [str(Path(sys.executable).with_name("skiptune"))]
    before = contents(folder)
    done = subprocess.run(
        [*program, "tune", "study.yaml", "-s", "setting.steps=0"],
        cwd=folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: -s setting.steps\n       expected: a whole number")
    assert contents(folder) == before
