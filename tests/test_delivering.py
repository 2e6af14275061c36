"""`skiptune export`: every format, of a study and of a tuned.json alone, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from skiptune.commands.delivering import MIXED
from skiptune.sampling import fold
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.options import config_of
from skiptune.sampling.schedule import Schedule
from skiptune.search import baking
from skiptune.search.evidence import Verdict
from skiptune.search.tuned import load
from tests.command_line import Outcome, write_spec
from tests.pipelines import random_unet, write_pipeline
from tests.sampling.families import random_network
from tests.sampling.published_options import TINY
from tests.tuned_documents import SETTING, tuned_for

Command = Callable[..., Outcome]


def document_of(place: Path, folder: Path, **sections: Any) -> Path:
    """Write a tuned.json of a checkpoint into a folder."""
    checkpoint = load_checkpoint(place)
    scales = {s.address: 0.8 + 0.1 * s.index for s in checkpoint.skips}
    path = folder / "tuned.json"
    tuned_for(checkpoint, Schedule.uniform(scales), **sections).write(path, force=True)
    return path


@pytest.fixture
def results(tmp_path: Path, mixed_network: Any, mixed_config: Any, write_checkpoint: Any) -> Path:
    """A folder with a tuned.json and its network; the command runs in the folder above it."""
    folder = tmp_path / "results"
    folder.mkdir()
    place = write_checkpoint(mixed_network, folder / "net.safetensors", mixed_config)
    document_of(place, folder)
    return folder


def test_words_of_the_option_are_those_of_folding() -> None:
    assert MIXED == fold.MIXED
    assert baking.MARKER == "baked.json"  # as the command checks it before torch is loaded


def test_a_baked_network_needs_nothing_but_the_file(command: Command, results: Path) -> None:
    done = command("export", results / "tuned.json", "--format", "baked")
    assert done.code == 0, done.err
    assert sorted(os.listdir()) == ["baked", "results"]  # no database
    assert "nearly, mixed group" in done.out and "exactly" in done.out
    assert "grey levels of 255" in done.out
    assert done.err.splitlines()[0] == "Wrote baked: win"
    assert "BAKED.md" in done.err
    assert command("skips", "baked/net.safetensors").code == 0
    twice = command("sample", results / "tuned.json", "--checkpoint", "baked/net.safetensors")
    assert twice.code == 2 and "hold these scales already" in twice.err
    again = command("export", results / "tuned.json", "--format", "baked")
    assert again.code == 2
    assert "--force" in again.err
    words = ("--format", "baked", "--force", "--mixed", "leave", "--images", "2", "--json")
    done = command("export", results / "tuned.json", *words)
    assert done.code == 0, done.err
    plain = json.loads(done.out)
    assert plain["written"] == "baked"
    assert plain["weights"] == ["baked/net.safetensors"]
    assert (plain["verdict"], plain["images"]) == ("win", 2)
    left = [b["address"] for b in plain["blocks"] if b["left"]]
    assert left == [b["address"] for b in plain["blocks"] if not b["exact"]] != []
    assert plain["deviation"]["effect"] > 0.01
    refused = command("export", results / "tuned.json", *words[:3], "--mixed", "refuse")
    assert refused.code == 2
    assert "--mixed fold" in refused.err and left[0] in refused.err


def test_the_network_may_lie_elsewhere(command: Command, results: Path, tmp_path: Path) -> None:
    (results / "net.safetensors").rename(tmp_path / "moved.safetensors")
    words = ("export", results / "tuned.json", "--format", "baked", "--images", "1")
    assert "--checkpoint FILE" in command(*words).err
    done = command(*words, "--checkpoint", "moved.safetensors")
    assert done.code == 0, done.err
    assert sorted(os.listdir("baked")) == ["BAKED.md", "baked.json", "moved.safetensors"]


def test_a_file_of_upstream_is_written_whole(command: Command, tmp_path: Path) -> None:
    upstream: Any = random_network(config_of(TINY, where="options").config).model
    state = {k: v.half() for k, v in upstream.state_dict().items()}
    torch.save({"state_dict": state, "step": 7}, tmp_path / "adm.pt")
    (tmp_path / "adm.yaml").write_text(yaml.safe_dump(TINY))
    assert command("convert", "adm.pt", "converted").code == 0
    document = document_of(tmp_path / "converted" / "adm.safetensors", tmp_path / "converted")
    words = ("export", document, "--format", "baked", "--images", "1")
    done = command(*words, "--original", "adm.pt")
    assert done.code == 0, done.err
    names = ["BAKED.md", "README.md", "adm.pt", "adm.safetensors", "baked.json"]
    assert sorted(os.listdir("baked")) == names
    whole = torch.load("baked/adm.pt", weights_only=True)
    assert whole["step"] == 7
    found, ours = whole["state_dict"], load_file("baked/adm.safetensors")
    assert list(found) == list(state)
    assert all(found[k].dtype == t.dtype and found[k].shape == t.shape for k, t in state.items())
    assert all(torch.equal(ours[f"model.{name}"], tensor) for name, tensor in found.items())
    changed = [name for name in state if not torch.equal(found[name], state[name])]
    assert any("skip_connection.weight" in name for name in changed)
    twin = random_network(config_of(TINY, where="options").config).model
    twin.load_state_dict(found, strict=True)
    wrong = command(*words, "-o", "other", "--original", "adm.yaml")
    assert wrong.code == 2
    assert "--original adm.yaml" in wrong.err
    assert not Path("other").exists()


def test_a_pipeline_is_written_as_a_pipeline(command: Command, tmp_path: Path) -> None:
    place = write_pipeline(tmp_path / "pipe", unet=random_unet(norm_num_groups=4))
    done = command("export", document_of(place, tmp_path), "--format", "baked")
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    assert "up_blocks.1.resnets.1" in done.out
    assert load_checkpoint("baked").config["pipeline"] == "DDIMPipeline"


@pytest.mark.parametrize(("kind", "name"), [("csv", "csv"), ("md", "md"), ("latex", "tex")])
def test_tables_go_to_a_file_or_to_stdout(
    command: Command, results: Path, kind: str, name: str
) -> None:
    written = command("export", results / "tuned.json", "--format", kind, "--json")
    assert written.code == 0, written.err
    assert json.loads(written.out) == {"written": f"tuned.{name}", "verdict": "win"}
    printed = command("export", results / "tuned.json", "--format", kind, "-o", "-")
    assert printed.code == 0
    assert printed.out == Path(f"tuned.{name}").read_text()
    assert "8x8_block0" in printed.out.replace("\\_", "_")
    assert command("export", results / "tuned.json", "--format", kind).code == 2
    again = command("export", results / "tuned.json", "--format", kind, "--force", "-q")
    assert (again.code, again.out, again.err) == (0, "", "")


def test_stdout_gets_a_file_whole_or_is_refused(command: Command, results: Path) -> None:
    tuned = results / "tuned.json"
    for words in ([], ["--json"]):
        printed = command("export", tuned, "-o", "-", *words)
        assert (printed.code, printed.err) == (0, "")
        assert printed.out == tuned.read_text()
    for words in (["--format", "baked"], ["--format", "csv", "--json"]):
        refused = command("export", tuned, "-o", "-", *words)
        assert refused.code == 2 and "-o -" in refused.err and refused.out == ""
    document_of(results / "net.safetensors", results, verdict=Verdict(verdict="not confirmed"))
    assert "caution: not confirmed" in command("export", tuned, "-o", "-").err
    assert os.listdir() == ["results"]  # none is called `-`


def test_the_file_that_is_read_is_never_written_over(command: Command, results: Path) -> None:
    tuned = results / "tuned.json"
    before = tuned.read_bytes()
    for words in (["--format", "csv"], ["--format", "json"], ["--format", "baked"]):
        refused = command("export", tuned, "-o", tuned, "--force", *words)
        assert refused.code == 2 and "another file than the one that is read" in refused.err
    assert tuned.read_bytes() == before


def test_what_is_no_weight_and_what_is_no_gain_is_said(command: Command, results: Path) -> None:
    before = SETTING.to_json()
    along: dict[str, Any] = {
        "verdict": Verdict(verdict="not confirmed"),
        "setting": SETTING.with_knobs({"epsilon_scale": 1.008966}),
        "untouched_setting": before,
    }
    path = document_of(results / "net.safetensors", results, **along)
    words = ("--format", "baked", "--images", "1", "-o")
    done = command("export", path, *words, "along")
    text = "epsilon_scale 1.009 (baseline 1)"
    assert text in " ".join(done.out.split()) and "1 image," in done.out
    assert f"| not in the weights | {text} |" in Path("along/BAKED.md").read_text()
    assert "worse than the untouched" not in done.err
    checkpoint = load_checkpoint(results / "net.safetensors")
    alone = tuned_for(checkpoint, Schedule.baseline(), **along)
    alone.write(path, force=True)
    refused = command("export", path, *words, "alone")
    assert refused.code == 2 and text in refused.err and "at that setting" in refused.err
    worse = alone.tuned.model_copy(update={"difference": 0.5, "value": 6.3125})
    alone.model_copy(update={"tuned": worse}).write(path, force=True)
    assert "caution: worse than the untouched network" in command("export", path, "-o", "-").err


def test_what_would_change_nothing_is_refused(command: Command, results: Path) -> None:
    tuned = results / "tuned.json"
    for words in (["--mixed", "fold"], ["--images", "4"], ["--original", "x.pt"]):
        outcome = command("export", tuned, "--format", "csv", *words)
        assert outcome.code == 2
        assert f"leave {words[0]} out" in outcome.err
    outcome = command("export", "fashion", "--format", "baked", "--checkpoint", "fashion")
    assert outcome.code == 2
    assert "a study, which knows its own" in outcome.err
    assert command("export", tuned, "--format", "onnx").code == 2
    assert command("export", tuned, "--format", "baked", "--images", "0").code == 2
    assert os.listdir() == ["results"]


def test_places_that_cannot_be_written_are_refused_before_any_work(
    command: Command,
    results: Path,
    unprivileged: Callable[[], AbstractContextManager[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*values: Any, **named: Any) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr(baking, "bake", never)
    Path("locked").mkdir(mode=0o555)
    Path("file").write_text("theirs")
    Path("theirs").mkdir()
    tuned = results / "tuned.json"
    with unprivileged():
        for place, found in (
            ("locked/baked", "Permission denied"),
            ("missing/baked", "No such file"),
            ("file", "a file"),
            ("theirs", "a folder"),
        ):
            outcome = command("export", tuned, "--format", "baked", "-o", place, "--force")
            assert outcome.code == 2
            assert found in outcome.err and place.split("/")[0] in outcome.err
    assert sorted(os.listdir()) == ["file", "locked", "results", "theirs"]


def test_a_file_that_is_no_tuned_json_is_refused(command: Command, results: Path) -> None:
    Path("no.json").write_text("{}")
    for name in ("no.json", "missing.json"):
        outcome = command("export", name, "--format", "baked")
        assert outcome.code == 2
        assert name in outcome.err
    document = json.loads((results / "tuned.json").read_text())
    document["skips"][0]["scale"] = 0.5
    (results / "tuned.json").write_text(json.dumps(document))
    outcome = command("export", results / "tuned.json", "--format", "baked")
    assert outcome.code == 2
    assert "edited by hand" in outcome.err
    assert not Path("baked").exists()


def test_a_file_without_a_confirm_says_so_wherever_it_goes(
    command: Command, results: Path
) -> None:
    verdict = Verdict(verdict="not confirmed")
    tuned = document_of(results / "net.safetensors", results, verdict=verdict)
    for kind in ("json", "baked", "md", "csv", "latex"):
        done = command("export", tuned, "--format", kind)
        assert done.code == 0, done.err
        assert "caution: not confirmed" in done.err
    assert "| verdict | not confirmed |" in Path("baked/BAKED.md").read_text()
    assert all("not confirmed" in Path(f"tuned.{n}").read_text() for n in ("md", "csv", "tex"))


def test_a_study_is_exported_before_and_after_its_confirm(
    command: Command, tiny_study: ModuleType, study_folder: Path
) -> None:
    changes = {"search__evaluations": 2, "search__rungs": [250], "confirm__images": 250}
    spec = write_spec(tiny_study, study_folder, **changes)
    assert command("create", spec).code == 0
    assert "a scored schedule" in command("export", "tiny").err
    assert command("worker", "tiny", "--images", "1000").code == 0
    early = command("export", "tiny", "-o", "early.json", "--json")
    assert early.code == 0, early.err
    plain = json.loads(early.out)
    assert plain == {"written": "early.json", "verdict": "not confirmed", "confirm": None}
    assert "`skiptune confirm tiny` decides" in early.err
    document = load("early.json")
    assert document.verdict.verdict == "not confirmed"
    best = json.loads(command("best", "tiny", "--json").out)["schedules"][0]
    assert document.schedule.to_json() == best["schedule"]
    assert document.tuned.value == best["measured"]["value"]
    baked = command("export", "tiny", "--format", "baked", "--images", "1")
    assert baked.code == 0, baked.err
    assert sorted(os.listdir("baked")) == ["BAKED.md", "baked.json", "tiny.safetensors"]
    assert command("worker", "tiny").code == 0
    late = command("export", "tiny", "-o", "late.json", "--json")
    assert json.loads(late.out)["confirm"] == 1
    assert load("late.json").verdict.verdict != "not confirmed"
    rows = list(
        csv.DictReader(io.StringIO(command("export", "tiny", "--format", "csv", "-o", "-").out))
    )
    assert rows[0]["name"] == load("late.json").verdict.verdict
