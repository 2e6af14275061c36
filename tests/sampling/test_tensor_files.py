from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from skiptune.canonical import file_digest
from skiptune.sampling.tensor_files import save_tensors

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}


def test_the_same_tensors_and_texts_give_the_same_bytes(tmp_path: Path) -> None:
    texts = {f"key{place}": str(place) * 5 for place in range(12)}
    digests = set()
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        save_tensors(path, TENSORS, texts if number % 2 else dict(reversed(texts.items())))
        digests.add(file_digest(path))
    assert len(digests) == 1
    found = load_file(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == texts
    save_tensors(path, TENSORS, None)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() is None


def test_others_may_read_it_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_tensors(tmp_path / "x.safetensors", TENSORS, {})
    modes = [os.stat(tmp_path / name).st_mode for name in ("plain", "x.safetensors")]
    assert modes[0] == modes[1]


def test_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"too large|No space|error"):
            save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(100_000)}, {"a": "b"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
