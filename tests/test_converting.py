"""`skiptune convert`: NVIDIA's files become checkpoints of skiptune, nothing in them is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from torch import nn

from skiptune.canonical import file_digest
from skiptune.sampling.checkpoint import load_checkpoint
from skiptune.sampling.networks import EDMPrecond
from skiptune.sampling.options import config_of
from skiptune.search.tuned import load
from tests.command_line import Outcome, write_spec
from tests.sampling.families import FAMILIES, PUBLISHED, random_network
from tests.sampling.official_files import edm2, official, training_dict, write_official
from tests.sampling.published_options import TINY

Command = Callable[..., Outcome]


@pytest.fixture
def pickle_file(tiny_network: EDMPrecond, tiny_config: dict[str, Any], tmp_path: Path) -> Path:
    """A training pickle of `tiny_network`."""
    arguments = {key: value for key, value in tiny_config.items() if key != "precond"}
    content = training_dict(official(tiny_network, {**arguments, "model_type": "SongUNet"}))
    return write_official(tmp_path / "edm-tiny.pkl", content)


def family_file(folder: Path, network: Any, config: dict[str, Any]) -> Path:
    """Write a training pickle as the family publishes it."""
    arguments = {key: value for key, value in config.items() if key != "precond"}
    if config["precond"] == "edm2":
        # As published: float16, with a head of its training that is no part of the denoiser.
        network = network.half()
        network.logvar_linear = nn.Linear(2, 1, bias=False)
        arguments |= {"use_fp16": True, "logvar_channels": 2}
    return write_official(folder / "x.pkl", training_dict(official(network, arguments)))


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


@pytest.mark.parametrize("family", PUBLISHED)
def test_networks_of_every_family_are_the_same(
    command: Command, tmp_path: Path, family: str
) -> None:
    network = random_network(FAMILIES[family].config)
    done = command("convert", family_file(tmp_path, network, FAMILIES[family].config), "out")
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


def test_studies_are_tuned_from_the_converted_files(
    command: Command, tmp_path: Path, tiny_study: ModuleType, study_folder: Path
) -> None:
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for family in ("ncsnpp-ve", "adm-iddpm", "edm2"):
        config = {**FAMILIES[family].config, "model_channels": 8}
        file = family_file(tmp_path, random_network(config), config)
        assert command("convert", file, family).code == 0
        checkpoint, document = f"{family}/x.safetensors", f"{family}/tuned.json"
        changes = {
            "study": family,
            "network__checkpoint": checkpoint,
            "setting": {"solver": "euler", "steps": 1, "guidance": 2.0},
            "space__branches": "uncond",
            "search__evaluations": 1,
            "search__rungs": [250],
            "confirm__candidates": 1,
        }
        study = write_spec(tiny_study, study_folder, **changes)
        assert command("tune", study, "-q", "-o", family).code == 0
        plain = json.loads(Path(document).read_text())
        assert plain["network"] == {"name": "x.safetensors", "sha256": file_digest(checkpoint)}
        assert plain["branches"] == "uncond"
        network = load_checkpoint(checkpoint).network
        level, labels = torch.tensor(0.5), torch.eye(3)[:2]
        with torch.no_grad():
            before = [network(x, level, rows) for rows in (labels, None)]
            load(document).apply(network, sha256=plain["network"]["sha256"])
            after = [network(x, level, rows) for rows in (labels, None)]
        changed = [not torch.equal(*pair) for pair in zip(before, after, strict=True)]
        assert changed == [False, True]
    best = command("best", family)
    assert (best.code, "branch" in best.out, "uncond" in best.out) == (0, True, True)


def test_the_same_pickle_gives_the_same_bytes(
    command: Command, pickle_file: Path, tmp_path: Path
) -> None:
    # A study knows its network by this hash, so every host must come to the same one.
    digests = set()
    for number in range(8):
        assert command("convert", pickle_file, f"out{number}").code == 0
        digests.add(file_digest(tmp_path / f"out{number}" / "edm-tiny.safetensors"))
    assert len(digests) == 1


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


@pytest.fixture
def tensor_file(tmp_path: Path) -> Path:
    """A file of tensors as guided diffusion saves it, of the options `TINY`."""
    network: Any = random_network(config_of(TINY, where="options").config)
    torch.save(network.model.state_dict(), tmp_path / "adm-tiny.pt")
    return tmp_path / "adm-tiny.pt"


@pytest.mark.parametrize("beside", [False, True])
def test_a_file_of_tensors_is_converted_with_its_options(
    command: Command, tensor_file: Path, beside: bool
) -> None:
    options = tensor_file.with_suffix(".yaml") if beside else Path("other.yaml")
    options.write_text(yaml.safe_dump(TINY))
    more = () if beside else ("--options", options)
    done = command("convert", tensor_file, "out", *more)
    assert (done.code, done.out) == (0, "")
    assert "Wrote out/adm-tiny.safetensors: guided-diffusion(OpenAIUNet)" in done.err
    loaded = load_checkpoint("out/adm-tiny.safetensors")
    twin = random_network(loaded.config).to(memory_format=torch.channels_last)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    sigma, labels = torch.tensor([0.5, 2.0]), torch.eye(3)[:2]
    with torch.no_grad():
        assert torch.equal(loaded.network(x, sigma, labels), twin(x, sigma, labels))
    assert "CC BY-NC-SA" not in Path("out/README.md").read_text()
    listed = command("skips", "out/adm-tiny.safetensors")
    assert (listed.code, "output_blocks.3" in listed.out) == (0, True)
    digest = file_digest("out/adm-tiny.safetensors")
    assert command("convert", tensor_file, "again", *more).code == 0
    assert file_digest("again/adm-tiny.safetensors") == digest


def test_a_file_of_tensors_without_options_is_refused(command: Command, tensor_file: Path) -> None:
    done = command("convert", tensor_file, "out")
    assert done.code == 2
    assert "no adm-tiny.yaml" in done.err
    assert "--options FILE" in done.err
    Path("other.yaml").write_text(yaml.safe_dump({**TINY, "num_channels": 64}))
    done = command("convert", tensor_file, "out", "--options", "other.yaml")
    assert done.code == 2
    assert "guided-diffusion(OpenAIUNet)" in done.err
    assert not Path("out").exists()


def test_a_study_is_tuned_on_a_network_of_tensors(
    command: Command, tensor_file: Path, tiny_study: ModuleType, study_folder: Path
) -> None:
    tensor_file.with_suffix(".yaml").write_text(yaml.safe_dump(TINY))
    assert command("convert", tensor_file, "adm").code == 0
    changes = {
        "study": "adm",
        "network__checkpoint": "adm/adm-tiny.safetensors",
        "setting": {"solver": "euler", "steps": 1, "sigma_min": 0.05},
        "search__evaluations": 1,
        "search__rungs": [250],
        "confirm__candidates": 1,
    }
    study = write_spec(tiny_study, study_folder, **changes)
    done = command("tune", study)
    assert done.code == 0
    assert "proposal 1" in done.err
