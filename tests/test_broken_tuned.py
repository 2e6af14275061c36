"""A tuned.json that was cut, edited or is another network's: refused alike by every reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from skiptune.errors import NetworkError, SkiptuneError, render
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.networks import build
from skiptune.search.tuned import load
from tests.command_line import Outcome
from tests.search.test_tuned import make_network
from tests.test_sampling import write

Command = Callable[..., Outcome]
Change = Callable[[dict[str, Any]], object]


def row(**values: Any) -> Change:
    return lambda plain: plain["skips"][0].update(values)


# What is done to the plain data; where that is told, what is expected, and what was found.
EDITED: dict[str, tuple[Change, str, str, str]] = {
    "negative": (row(scale=-0.5), "skips[0].scale", "at least 0", "-0.5"),
    "text": (row(scale="0.5"), "skips[0].scale", "at least 0", '"0.5"'),
    "changed": (row(scale=0.5), "schedule_sha256", "edited by hand", '"'),
    "newer": (
        lambda plain: plain.update(schema_version=2, more=1),
        "schema_version",
        "at most 1",
        "a newer skiptune",
    ),
    "missing skip": (
        lambda plain: plain["skips"].pop(1), "skips[1].index", "every skip once", "2"
    ),
    "unknown skip": (
        row(address="64x64_block9"), "schedule_sha256", "the hash of the rows", '"'
    ),
    "skip twice": (
        lambda plain: plain["skips"].insert(1, {**plain["skips"][0], "index": 1}),
        "skips[1].address",
        "stands here once",
        "4x4_block0",
    ),
    "unknown key": (row(scales=1), "skips[0].scales", "did you mean `scale`?", "unknown key"),
    "wrong window": (
        row(scale=1.0, windows=[{"low": 3.0, "high": 1.0, "scale": 0.5}]),
        "skips[0].windows",
        "low <= high",
        "",
    ),
    "other format": (
        lambda plain: plain.update(format="skiptune.start"), "format", "skiptune.tuned", "start"
    ),
}  # fmt: skip

# What is done to the text; the line is told where JSON itself is broken.
BROKEN: dict[str, tuple[Callable[[str], str], str, str, str]] = {
    "truncated": (lambda text: text[: len(text) // 2], ":", "complete JSON", ""),
    "empty": (lambda text: "", ":1", "complete JSON", "the end of the file"),
    "NaN": (
        lambda text: text.replace('"scale": 0.4', '"scale": NaN'), "", "plain JSON", "NaN"
    ),
    "infinity": (
        lambda text: text.replace('"scale": 0.4', '"scale": Infinity'),
        "",
        "plain JSON",
        "Infinity",
    ),
    "key twice": (
        lambda text: text.replace('"scale": 0.4', '"scale": 0.4, "scale": 0.9'),
        "",
        "plain JSON",
        'the key "scale" twice',
    ),
    "comment": (lambda text: "// mine\n" + text, ":1", "complete JSON", "Expecting value"),
    "list": (lambda text: f"[{text}]", ": format", "skiptune.tuned", "["),
}  # fmt: skip

READERS = {
    "sample": ("sample", "tuned.json"),
    "compare": ("sample", "--compare", "baseline", "tuned.json"),
    "score": ("score", "tuned.json"),
    "confirmed": ("score", "tuned.json", "--confirmed"),
}


@pytest.fixture
def folder(
    tmp_path: Path, tiny_network: torch.nn.Module, write_checkpoint: Callable[..., Path]
) -> Path:
    """A network with its scales beside it; the commands run there."""
    checkpoint = load_checkpoint(write_checkpoint(tiny_network, tmp_path / "tiny.safetensors"))
    write(checkpoint, tmp_path / "tuned.json", 0.4)
    return tmp_path


def told(command: Command, folder: Path, where: str, expected: str, found: str) -> None:
    """Every reader refuses the file in the same words, and leaves nothing behind."""
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(SkiptuneError) as caught:
        load("tuned.json")
    for words in READERS.values():
        done = command(*words)
        assert done.code == 2, words
        assert done.err == render(caught.value) + "\n", words
        assert done.out == "" and "Traceback" not in done.err
    hits = [
        problem
        for problem in caught.value.problems
        if problem.where.startswith(f"tuned.json{where}")
    ]
    assert any(expected in one.expected and found in one.found for one in hits), caught.value
    assert caught.value.hint.startswith(("export it again", "pip install --upgrade"))
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("case", EDITED)
def test_a_file_that_was_edited(command: Command, folder: Path, case: str) -> None:
    change, where, expected, found = EDITED[case]
    plain = json.loads((folder / "tuned.json").read_text())
    change(plain)
    (folder / "tuned.json").write_text(json.dumps(plain))
    told(command, folder, f": {where}", expected, found)


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_no_json_of_ours(command: Command, folder: Path, case: str) -> None:
    change, where, expected, found = BROKEN[case]
    text = (folder / "tuned.json").read_text()
    assert change(text) != text
    (folder / "tuned.json").write_text(change(text))
    told(command, folder, where, expected, found)


@pytest.mark.parametrize("reader", READERS)
def test_a_file_of_another_network(
    command: Command,
    folder: Path,
    tiny_config: dict[str, Any],
    write_checkpoint: Callable[..., Path],
    reader: str,
) -> None:
    wider = {**tiny_config, "model_channels": 16}
    write_checkpoint(build(wider), folder / "wider.safetensors", wider)
    words = (*READERS[reader], "--checkpoint", "wider.safetensors")
    if reader != "sample" and reader != "compare":
        words = (*words, "--reference", "fashion-train")
        plain = json.loads((folder / "tuned.json").read_text())
        plain["measure"] |= {"extractor": "dct", "reference": "fashion-train"}
        plain["seeds"]["confirm B"] = {"first": 2_150_000, "images": 500}
        (folder / "tuned.json").write_text(json.dumps(plain))
    done = command(*words)
    assert done.code == 2
    skips = load("tuned.json").skips
    assert f"error: network: {skips[0].address}\n" in done.err
    assert "16 + 16 channels" in done.err and "8 + 8 channels" in done.err
    assert "error: network\n       expected: the weights of tiny.safetensors" in done.err
    assert done.err.count("hint: ") == 1 and done.out == ""


def test_the_same_in_python(folder: Path) -> None:
    other = make_network(num_blocks=2)
    with pytest.raises(NetworkError) as caught:
        load(folder / "tuned.json").apply(other)
    assert "network: " in render(caught.value)
    assert not any(module._forward_pre_hooks for module in other.modules())
