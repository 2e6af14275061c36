"""Checkpoints: what loads, and what is refused without being executed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from skiptune.canonical import file_digest
from skiptune.errors import NetworkError, render
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.networks import EDMPrecond
from skiptune.sampling.skips import find_skips

Write = Callable[..., Path]


def _refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(NetworkError) as caught:
        load_checkpoint(path, **options)
    (problem,) = caught.value.problems
    assert problem.where
    assert problem.expected
    assert problem.found
    assert caught.value.hint
    return render(caught.value)


def test_round_trip(
    tiny_network: EDMPrecond,
    tiny_config: dict[str, Any],
    write_checkpoint: Write,
    tmp_path: Path,
    device: str,
) -> None:
    path = write_checkpoint(tiny_network, tmp_path / "tiny.safetensors")
    loaded = load_checkpoint(path, sha256=file_digest(path).upper(), device=device)
    assert loaded.name == "tiny"
    assert loaded.path == path
    assert loaded.sha256 == file_digest(path)
    assert loaded.config == tiny_config
    assert loaded.skips == find_skips(tiny_network)
    assert not loaded.network.training
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    x, sigma = torch.ones(2, 1, 8, 8, device=device), torch.tensor(1.0, device=device)
    assert torch.allclose(loaded.network(x, sigma, None), tiny_network(x, sigma, None), atol=1e-5)
    for name, value in tiny_network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value)


def test_half_precision_files_load_as_float32(
    tiny_network: EDMPrecond, write_checkpoint: Write, tmp_path: Path
) -> None:
    path = write_checkpoint(tiny_network.half(), tmp_path / "half.safetensors")
    network = load_checkpoint(path).network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    for name, value in tiny_network.state_dict().items():
        assert torch.equal(network.state_dict()[name].cpu(), value.float().cpu())


def test_missing_files_are_refused(tmp_path: Path) -> None:
    assert "no such file" in _refusal(tmp_path / "absent.safetensors")
    assert "fashion" in _refusal("fasion")
    assert "a folder" in _refusal(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 100, -1, -1000])
def test_truncated_files_are_refused(
    tiny_network: EDMPrecond, write_checkpoint: Write, tmp_path: Path, kept: int
) -> None:
    path = write_checkpoint(tiny_network, tmp_path / "tiny.safetensors")
    path.write_bytes(path.read_bytes()[:kept])
    assert "complete safetensors file" in _refusal(path)


def test_other_hashes_are_refused(
    tiny_network: EDMPrecond, write_checkpoint: Write, tmp_path: Path
) -> None:
    path = write_checkpoint(tiny_network, tmp_path / "tiny.safetensors")
    text = _refusal(path, sha256="0" * 64)
    assert "0" * 64 in text
    assert file_digest(path) in text


def test_another_architecture_is_refused_with_keys_and_shapes(
    tiny_network: EDMPrecond,
    tiny_config: dict[str, Any],
    write_checkpoint: Write,
    tmp_path: Path,
) -> None:
    deeper = {**tiny_config, "num_blocks": 2}
    text = _refusal(write_checkpoint(tiny_network, tmp_path / "a.safetensors", deeper))
    assert "missing: model.enc.8x8_block1" in text
    shallower = {**tiny_config, "label_dim": 0}
    text = _refusal(write_checkpoint(tiny_network, tmp_path / "b.safetensors", shallower))
    assert "unknown: model.map_label.bias, model.map_label.weight" in text
    wider = {**tiny_config, "model_channels": 16}
    text = _refusal(write_checkpoint(tiny_network, tmp_path / "c.safetensors", wider))
    assert "model.map_layer0.weight [32, 8] instead of [64, 16]" in text
    assert " more" in text


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(_Bomb.target),)

    target = ""


@pytest.mark.parametrize("name", ["network.pkl", "network.pt", "network.safetensors", "network"])
@pytest.mark.parametrize("how", ["pickle", "pickle of old", "torch.save", "torch.save of old"])
def test_pickles_are_refused_and_not_executed(tmp_path: Path, name: str, how: str) -> None:
    _Bomb.target = str(tmp_path / "executed")
    path = tmp_path / name
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps({"ema": _Bomb()}, protocol=2 if "old" in how else 5))
    else:
        torch.save({"ema": _Bomb()}, path, _use_new_zipfile_serialization="old" not in how)
    assert "pickle" in _refusal(path)
    assert not Path(_Bomb.target).exists()


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        (None, "no such entry"),
        ({"format": "pt"}, "no such entry"),
        ({"skiptune.network": "{"}, "line 1"),
        ({"skiptune.network": "[1]"}, "[1]"),
        ({"skiptune.network": "{}"}, "no precond"),
        ({"skiptune.network": json.dumps({"precond": "edm", "blocks": 3})}, "blocks"),
    ],
)
def test_bad_configurations_are_refused(
    tmp_path: Path, metadata: dict[str, str] | None, found: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata=metadata)
    assert found in _refusal(path)


def test_text_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "complete safetensors file" in _refusal(path)
