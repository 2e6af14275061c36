"""Pickles read as records: what a network's file needs is understood, everything else refused."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from skiptune.errors import NetworkError, render
from skiptune.sampling import unpickling
from skiptune.sampling.networks import EDMPrecond, build
from skiptune.sampling.official import read_official
from skiptune.sampling.storages import Tensors, number
from skiptune.sampling.unpickling import Call, Record, read_records
from tests.sampling.hostile_files import hostile_files, truncated
from tests.sampling.official_files import (
    OldNumber,
    Persistent,
    official,
    official_bytes,
    training_dict,
    write_official,
)

ROOT = Path(__file__).resolve().parents[2]

# Converts each file through the command line in one process, with limits on what it may take and a
# hook that sees whatever Python is told to do. Everything is imported once before the hook.
PROGRAM = """
import contextlib, io, json, pathlib, resource, sys, time
from skiptune.cli import main

folder = pathlib.Path(sys.argv[1])

def convert(path):
    began, out, err = time.monotonic(), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["convert", str(path), str(folder / "converted" / path.stem)])
        except SystemExit as ended:
            code = ended.code
    return {"code": code, "err": err.getvalue(), "seconds": time.monotonic() - began}

(folder / "converted").mkdir()
good = convert(folder / "good.pkl")
convert(folder / "missing.pkl")
convert(folder / "hostile" / "0.pkl")
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + (2 << 30)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seen, listening = [], True
watched = ("exec", "compile", "import", "marshal", "pickle", "os.system", "os.exec", "os.fork",
           "os.posix_spawn", "os.spawn", "subprocess", "pty", "ctypes", "socket", "urllib",
           "code.__new__", "function.__new__", "shutil", "os.remove", "os.rename")

def hear(event, arguments):
    if listening and event.startswith(watched):
        seen.append(f"{event} {arguments!r}"[:200])

sys.addaudithook(hear)
results = {path.stem: convert(path) for path in sorted((folder / "hostile").iterdir())}
listening = False
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
left = [path.name for path in (folder / "converted").iterdir()]
print(json.dumps({"good": good, "results": results, "seen": seen, "grown": grown, "left": left}))
"""


@pytest.fixture(scope="module")
def content() -> bytes:
    """A good file, of a network that is as small as they get."""
    arguments = {
        "img_resolution": 4,
        "img_channels": 1,
        "label_dim": 0,
        "sigma_data": 0.5,
        "model_channels": 4,
        "channel_mult": [1],
        "num_blocks": 1,
        "attn_resolutions": [],
    }
    network = build({"precond": "edm", **arguments})
    return official_bytes(training_dict(official(network, arguments)))


def outcome(folder: Path, files: Mapping[str, bytes], good: bytes) -> dict[str, Any]:
    """What `PROGRAM` found, with the files' names."""
    (folder / "good.pkl").write_bytes(good)
    (folder / "hostile").mkdir()
    for index, data in enumerate(files.values()):
        (folder / "hostile" / f"{index}.pkl").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    found["results"] = {name: found["results"][str(index)] for index, name in enumerate(files)}
    return found


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> tuple[Path, dict[str, Any]]:
    """All hostile files, converted in one process; the canary, and what was found."""
    folder = tmp_path_factory.mktemp("hostile")
    canary = folder / "canary"
    files = {**hostile_files(canary), **truncated(content)}
    return canary, outcome(folder, files, content)


def test_no_hostile_file_runs_anything(batch: tuple[Path, dict[str, Any]]) -> None:
    canary, found = batch
    assert len(found["results"]) > 190
    assert not canary.exists()
    assert found["seen"] == []
    assert found["good"]["code"] == 0


def test_no_hostile_file_takes_memory_or_leaves_anything(
    batch: tuple[Path, dict[str, Any]],
) -> None:
    _, found = batch
    assert found["grown"] < 1 << 20  # KiB, so 1 GiB
    assert found["left"] == ["good"]
    assert max(result["seconds"] for result in found["results"].values()) < 20


def test_every_hostile_file_gives_the_shape_of_errors(
    batch: tuple[Path, dict[str, Any]],
) -> None:
    _, found = batch
    wrong = {
        name: result
        for name, result in found["results"].items()
        if result["code"] != 2
        or [line.split(":")[0].strip() for line in result["err"].splitlines()]
        != ["error", "expected", "found", "", "hint"]
        or not result["err"].replace("\n", "").isprintable()
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("os.system", "names os.system"),
        ("eval", "names builtins.eval"),
        ("builtins chain", "names builtins.getattr"),
        ("pathlib in protocol 4", "names pathlib.Path.touch"),
        ("dotted name", "names torch.storage.os.system"),
        ("instruction INST", "instruction INST"),
        ("instruction OBJ", "instruction OBJ"),
        ("extension registry 1", "instruction EXT1"),
        ("binary persistent id", "instruction BINPERSID"),
        ("call of a record", "calls a Record"),
        ("BUILD of a name", "changes the attributes of a Name"),
        ("memo bomb", "by a number over 1,000,000"),
        ("length of bytes", "1,099,511,627,776 bytes asked for, 2 left"),
        ("nested marks", "nested over 500 deep"),
        ("many instructions", "over 2,000,000 instructions"),
        ("module in itself", "one of them may hold itself"),
        ("modules six times over", "one of them may hold itself"),
        ("blocks without end", "2147483647"),
        ("zip bomb in a storage", "a storage that is a zip archive"),
        ("code in a storage, legacy", "names __builtin__.getattr"),
        ("os.system in a storage", "names os.system"),
        ("storage that announces more", "not what it announces"),
        ("key of a storage doubled 60 times", "holds something else"),
        ("one storage loaded again and again", "more bytes than the file has"),
        ("empty tensors without end", "at most 50,000 modules and tensors"),
        ("arguments of lists of lists of lists", "a nested or long list"),
        ("tensor of zero strides", "reaches beyond its storage"),
        ("one storage, many tensors", "more bytes than the file has"),
        ("zip of torch.save with code", "a zip archive"),
        ("legacy torch.save with code", "torch.save of before 1.6"),
        ("code after the end", "bytes after its end"),
        ("plain dict", "a dict of model, args"),
        ("foreign class", "a ?[31mEvil?"),
        ("cut at 50 %", "cut off"),
    ],
)
def test_what_is_wrong_is_told(batch: tuple[Path, dict[str, Any]], name: str, words: str) -> None:
    _, found = batch
    assert words in found["results"][name]["err"]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_changed_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    # Most of a file are instructions and names, among them lengths and numbers of values.
    changed = bytearray(content)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        changed[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("changed") / "x.pkl"
    path.write_bytes(changed)
    try:
        read_official(path)
    except NetworkError as error:
        assert render(error).replace("\n", "").isprintable()


def test_the_hook_hears_and_the_canary_sings(tmp_path: Path, content: bytes) -> None:
    # The batch above proves something only if running a hostile file would be noticed.
    canary = tmp_path / "canary"
    files = hostile_files(canary)
    heard: list[str] = []
    listening = True

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if listening:
            heard.append(event)

    sys.addaudithook(hear)
    pickle.loads(files["pathlib in protocol 4"])
    listening = False
    assert canary.exists()
    assert "pickle.find_class" in heard


# What is understood


def records(content: Any, tmp_path: Path, protocol: int = 4) -> Any:
    return read_records(write_official(tmp_path / "content.pkl", content, protocol))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sets(st.text(max_size=3), max_size=4),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=30,
)


@given(value=plain, protocol=st.integers(0, 5))
def test_plain_data_is_read_as_pickle_reads_it(
    tmp_path_factory: pytest.TempPathFactory, value: Any, protocol: int
) -> None:
    path = tmp_path_factory.mktemp("plain") / "plain.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    assert read_records(path) == value


@pytest.mark.parametrize("protocol", range(6))
def test_objects_become_records_without_source(tmp_path: Path, protocol: int) -> None:
    thing = Persistent("Thing", {"a": [1], "easy": {"b": ()}, "ordered": OrderedDict(c=None)})
    read = records({"ema": thing, "again": thing}, tmp_path, protocol)
    record = read["ema"]
    assert isinstance(record, Record)
    assert record is read["again"]
    assert record.class_name == "Thing"
    assert record.state == {"a": [1], "easy": {"b": ()}, "ordered": {"c": None}}
    assert record.part("easy") == {"b": ()}
    assert record.part("a") == {}


@pytest.mark.parametrize("protocol", range(2, 6))
def test_module_dicts_become_records(tmp_path: Path, protocol: int) -> None:
    modules = nn.ModuleDict()
    modules.__dict__["_modules"] = {"x": Persistent("Thing", {})}
    read = records(modules, tmp_path, protocol)
    assert read.class_name == "ModuleDict"
    assert read.part("_modules")["x"].class_name == "Thing"


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize(
    "value", [np.float64(0.1), np.float32(0.1), np.int64(-7), np.bool_(True), OldNumber(0.1)]
)
def test_numbers_of_numpy(tmp_path: Path, value: Any, protocol: int) -> None:
    read = records(value, tmp_path, protocol)
    assert isinstance(read, Call)
    assert number(read) == (0.1 if isinstance(value, OldNumber) else value.item())


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_numpy_are_written_down(tmp_path: Path, protocol: int) -> None:
    read = records([np.arange(4.0), np.ones((2, 2))], tmp_path, protocol)
    assert [item.word for item in read] == ["array", "array"]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool],
)
def test_tensors_are_what_they_were(tmp_path: Path, dtype: torch.dtype, protocol: int) -> None:
    numbers = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4).to(dtype)
    given = {
        "plain": numbers,
        "parameter": nn.Parameter(numbers.clone(), requires_grad=dtype.is_floating_point),
        "turned": numbers.transpose(0, 2),
        "part": numbers.clone()[1:, :2, ::2],
        "scalar": numbers.new_ones(()),
        "empty": numbers.new_zeros(0, 3),
    }
    read = records(given, tmp_path, protocol)
    tensors = Tensors(1 << 20)
    for name, expected in given.items():
        made = tensors.make(read[name], name)
        assert made.dtype == dtype
        assert made.is_contiguous()
        assert not made.requires_grad
        assert torch.equal(made, expected.detach())


def test_tensors_of_one_storage_share_no_memory(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    read = records({"a": whole[:3], "b": whole[3:], "c": whole}, tmp_path)
    tensors = Tensors(1 << 20)
    made = [tensors.make(read[name], name) for name in "abc"]
    assert [t.tolist() for t in made] == [[0, 1, 2], [3, 4, 5], [0, 1, 2, 3, 4, 5]]
    made[2].zero_()
    assert made[0].tolist() == [0, 1, 2]


def test_a_network_of_ours_has_all_its_names(
    tiny_network: EDMPrecond, tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    arguments = {k: v for k, v in tiny_config.items() if k != "precond"}
    read = records(training_dict(official(tiny_network, arguments), easy=True), tmp_path)
    assert list(read) == ["ema", "loss_fn", "augment_pipe", "dataset_kwargs", "encoder"]
    assert number(read["loss_fn"].state["sigma_data"]) == 0.5


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="no such file"):
        read_records(tmp_path / "absent.pkl")
    with pytest.raises(NetworkError, match="a folder"):
        read_records(tmp_path)
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(NetworkError, match="found a safetensors file") as caught:
        read_records(tmp_path / "a.safetensors")
    assert "skiptune skips" in caught.value.hint


def test_files_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickling, "MOST_BYTES", 100)
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps("x" * 200))
    with pytest.raises(NetworkError, match="over 100"):
        read_records(path)


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("1.13.1", False),
        ("2.9.1+cu128", False),
        ("2.10.0", True),
        ("2.15.0a0+git", True),
        ("3.0", True),
    ],
)
def test_torch_has_to_be_recent(version: str, fits: bool) -> None:
    if fits:
        unpickling.refuse_old_torch(version)
    else:
        with pytest.raises(NetworkError, match=r"pip install 'torch>=2\.10'"):
            unpickling.refuse_old_torch(version)
