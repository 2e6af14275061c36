"""`skiptune convert`: NVIDIA's files become checkpoints of skiptune, nothing in them is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from skiptune.canonical import file_digest
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.networks import EDMPrecond
from tests.command_line import Outcome, write_spec
from tests.sampling.official_files import edm2, official, training_dict, write_official
from tests.sampling.test_conformance import FAMILIES, random_network

Command = Callable[..., Outcome]


@pytest.fixture
def pickle_file(tiny_network: EDMPrecond, tiny_config: dict[str, Any], tmp_path: Path) -> Path:
    """A training pickle of `tiny_network`."""
    arguments = {key: value for key, value in tiny_config.items() if key != "precond"}
    content = training_dict(official(tiny_network, {**arguments, "model_type": "SongUNet"}))
    return write_official(tmp_path / "edm-tiny.pkl", content)


def test_the_converted_network_is_the_same(
    command: Command, pickle_file: Path, tiny_network: EDMPrecond, device: str
) -> None:
    done = command("convert", pickle_file, "out")
    assert (done.code, done.out) == (0, "")
    assert "Next: skiptune skips out/edm-tiny.safetensors" in done.err
    loaded = load_checkpoint("out/edm-tiny.safetensors", device=device).network
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 1, 8, 8, generator=generator).to(device)
    sigma = torch.tensor([0.1, 1.0, 10.0], device=device)
    labels = torch.eye(3, device=device)
    own = tiny_network.to(memory_format=torch.channels_last) if device == "cpu" else tiny_network
    with torch.no_grad():
        assert torch.equal(loaded(x, sigma, labels), own(x, sigma, labels))
    assert command("skips", "out/edm-tiny.safetensors").code == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_of_every_family_are_the_same(
    command: Command, tmp_path: Path, family: str
) -> None:
    config = FAMILIES[family].config
    network = random_network(config)
    arguments = {key: value for key, value in config.items() if key != "precond"}
    if family == "edm2":
        # As published: float16, with a head of its training that is no part of the denoiser.
        network = network.half()
        network.logvar_linear = nn.Linear(2, 1, bias=False)
        arguments |= {"use_fp16": True, "logvar_channels": 2}
    path = write_official(tmp_path / "x.pkl", training_dict(official(network, arguments)))
    done = command("convert", path, "out")
    assert done.code == 0
    assert "caution" not in done.err
    count = sum(parameter.numel() for parameter in network.parameters())
    assert json.loads(Path("out/config.json").read_text())["parameters"] == count
    loaded = load_checkpoint("out/x.safetensors").network
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    sigma, labels = torch.tensor([0.5, 2.0]), torch.eye(3)[:2]
    # In the memory layout that loading chooses, so that the same bits can be asked for.
    network = network.float().to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(loaded(x, sigma, labels), network(x, sigma, labels))


def test_a_study_is_tuned_from_the_converted_file(
    command: Command, pickle_file: Path, tiny_study: ModuleType, study_folder: Path
) -> None:
    assert command("convert", pickle_file, "out").code == 0
    changes = {
        "network__checkpoint": "out/edm-tiny.safetensors",
        "setting__steps": 2,
        "search__evaluations": 3,
        "search__rungs": [250],
        "confirm__candidates": 1,
    }
    done = command("tune", write_spec(tiny_study, study_folder, **changes), "-q")
    assert done.code == 0
    tuned = json.loads(Path("tuned.json").read_text())
    assert tuned["network"]["name"] == "edm-tiny.safetensors"
    assert tuned["network"]["sha256"] == file_digest("out/edm-tiny.safetensors")


def test_the_card_and_the_configuration(
    command: Command, pickle_file: Path, tiny_network: nn.Module, tiny_config: dict[str, Any]
) -> None:
    done = command("convert", pickle_file, "out", "--json")
    assert done.code == 0
    document = json.loads(done.out)
    digest, size = file_digest(pickle_file), pickle_file.stat().st_size
    source = {"file": "edm-tiny.pkl", "bytes": size, "sha256": digest}
    parameters = sum(parameter.numel() for parameter in tiny_network.parameters())
    assert document["written"] == ["out/edm-tiny.safetensors", "out/config.json", "out/README.md"]
    assert document["cautions"] == []
    written = json.loads(Path("out/config.json").read_text())
    assert written == {
        key: document[key] for key in document if key not in ("written", "cautions")
    }
    assert written["network"] == tiny_config
    assert written["source"] == source
    assert written["parameters"] == parameters
    card = Path("out/README.md").read_text()
    for words in (digest, f"{size:,} bytes", f"{parameters:,}", "CC BY-NC-SA 4.0", "edm-tiny.pkl"):
        assert words in card
    with safe_open("out/edm-tiny.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["skiptune.source"]) == source
    assert {path.name for path in Path("out").iterdir()} == {
        "edm-tiny.safetensors",
        "config.json",
        "README.md",
    }


def test_files_are_replaced_only_when_asked(command: Command, pickle_file: Path) -> None:
    Path("out").mkdir()
    Path("out/README.md").write_text("mine")
    refused = command("convert", pickle_file, "out")
    assert refused.code == 2
    assert "--force" in refused.err
    assert [path.name for path in Path("out").iterdir()] == ["README.md"]
    assert Path("out/README.md").read_text() == "mine"
    assert command("convert", pickle_file, "out", "--force").code == 0
    assert command("convert", pickle_file, "out", "--force", "--quiet").err == ""
    assert "edm-tiny" in Path("out/README.md").read_text()


def test_a_network_that_cannot_be_built_is_converted_with_a_caution(
    command: Command, tmp_path: Path
) -> None:
    arguments = {"img_resolution": 8, "img_channels": 3, "label_dim": 0, "colour": "unknown"}
    weight = torch.randn(4, 3, 3, 3).half()
    path = write_official(tmp_path / "edm2-x.pkl", training_dict(edm2(weight, arguments)))
    done = command("convert", path, "out")
    assert done.code == 0
    assert "caution: skiptune cannot build this network" in done.err
    assert "Next" not in done.err
    assert "Caution" in Path("out/README.md").read_text()
    with safe_open("out/edm2-x.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("unet.enc.8x8_conv.weight"), weight)
        assert json.loads(file.metadata()["skiptune.network"])["colour"] == "unknown"


def test_weights_of_another_network_are_refused(
    command: Command, tiny_network: EDMPrecond, tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    arguments = {key: value for key, value in tiny_config.items() if key != "precond"}
    content = official(tiny_network, {**arguments, "model_channels": 16})
    path = write_official(tmp_path / "x.pkl", content)
    done = command("convert", path, "out")
    assert done.code == 2
    assert "of another shape: model.map_label.weight" in " ".join(done.err.split())
    assert not Path("out").exists()


def test_arguments_that_make_no_network_are_a_caution(
    command: Command, tiny_network: EDMPrecond, tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    arguments = {key: value for key, value in tiny_config.items() if key != "precond"}
    content = official(tiny_network, {**arguments, "model_channels": 0})
    done = command("convert", write_official(tmp_path / "x.pkl", content), "out")
    assert done.code == 0
    assert "caution: skiptune cannot build this network (" in done.err


def test_a_pickle_that_runs_code_is_refused_by_name(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"cos\nsystem\n(X\x04\x00\x00\x00truetR.")
    done = command("convert", path, "out")
    assert done.code == 2
    assert "found: one that names os.system" in done.err
    assert not Path("out").exists()


def test_folders_that_cannot_be_made(command: Command, pickle_file: Path) -> None:
    assert "out/deeper" in command("convert", pickle_file, "out/deeper").err
    Path("file").write_text("")
    done = command("convert", pickle_file, "file")
    assert done.code == 2
    assert "expected: a folder" in done.err
