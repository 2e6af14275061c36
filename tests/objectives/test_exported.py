from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skiptune.canonical import file_digest
from skiptune.errors import ObjectiveError
from skiptune.objectives import exported
from skiptune.objectives.extractors import Extractor, load_extractor

KINDS = (".pt", ".ts", ".pt2")
IMAGES = torch.randint(
    256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


class Pooled(nn.Module):
    """Takes bytes or floats; d = 4."""

    def __init__(self, scale: float = 255.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = scale
        self.convolution = nn.Conv2d(3, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.convolution(images.float() / self.scale))
        pooled: Tensor = x.tanh().mean(dim=(2, 3))
        return pooled


class Bare(nn.Module):
    """Without parameters; d = 3."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean(dim=(2, 3))


class Fixed(nn.Module):
    """Gives a tensor that is given."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("features", features)

    def forward(self, images: Tensor) -> Tensor:
        return self.get_buffer("features") + 0 * images.sum()


def export(network: nn.Module, path: Path, *, declared: Any = None, floats: bool = False) -> Path:
    """Write a network to a TorchScript or torch.export file."""
    extra = {} if declared is None else {exported.DECLARATION: json.dumps(declared)}
    example = torch.zeros(2, 3, 32, 32) if floats else IMAGES[:2]
    if path.suffix == ".pt2":
        shapes = ({0: torch.export.Dim("images")},)
        program = torch.export.export(network, (example,), dynamic_shapes=shapes)
        torch.export.save(program, path, extra_files=extra)
        return path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still around
        torch.jit.save(torch.jit.trace(network, example), path, _extra_files=extra)
    return path


def load(path: Path) -> Extractor:
    return load_extractor("exported", weights=path)


@pytest.mark.parametrize("suffix", KINDS)
def test_a_program_is_an_extractor(tmp_path: Path, suffix: str, device: str) -> None:
    network = Pooled().eval()
    path = export(network, tmp_path / f"mine{suffix}")
    extractor = load(path).to(device)
    sha256 = file_digest(path)
    assert extractor.describe() == {
        "extractor": f"exported-{sha256[:8]}",
        "sha256": sha256,
        "preprocess": "uint8 [N, C, H, W] as they are, by the exported program",
        "dim": 4,
        "precision": "float32",
    }
    features = extractor(IMAGES)
    torch.testing.assert_close(features.cpu(), network(IMAGES).detach())
    assert not features.requires_grad
    with pytest.raises(ObjectiveError, match="takes bytes only") as caught:
        extractor.of_floats(IMAGES.float() / 127.5 - 1)
    assert '{"input": "float"}' in caught.value.hint


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_a_program_may_take_floats_with_gradient(tmp_path: Path, suffix: str) -> None:
    network = Pooled(scale=1.0).eval()
    declared = {"input": "float", "name": "pooled"}
    extractor = load(export(network, tmp_path / f"m{suffix}", declared=declared, floats=True))
    assert extractor.name == "pooled"
    assert "x / 127.5 - 1" in extractor.preprocess
    bytes_ = IMAGES.float() / 127.5 - 1
    torch.testing.assert_close(extractor(IMAGES), network(bytes_), rtol=1e-5, atol=1e-6)
    # Inside of the range: at its ends clamping has no gradient.
    floats = (0.9 * bytes_).requires_grad_(True)
    expected = network(floats)
    found = extractor.of_floats(floats)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(found.square().sum(), floats)
    (wanted,) = torch.autograd.grad(expected.square().sum(), floats)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-7)


def test_a_graph_moves_with_the_device_that_its_operations_name(tmp_path: Path) -> None:
    path = export(Pooled().eval(), tmp_path / "m.pt2")
    extractor = load(path).to("meta")
    assert extractor.device == torch.device("meta")
    assert extractor.module(IMAGES.to("meta")).shape == (5, 4)


def test_a_copy_under_another_name_is_the_same_extractor(tmp_path: Path) -> None:
    path = export(Bare(), tmp_path / "one.pt")
    copy = tmp_path / "inception.ts"
    copy.write_bytes(path.read_bytes())
    assert load(copy).describe() == load(path).describe()
    assert load(copy).device == torch.device("cpu")


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_features_that_depend_on_the_batch_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"training{suffix}"
    if suffix == ".pt":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # As a user forgets eval(): the tracer bakes the batch statistics in.
            torch.jit.save(torch.jit.trace(Pooled().train(), IMAGES[:2], check_trace=False), path)
    else:
        export(Pooled().train(), path)
    with pytest.raises(ObjectiveError, match="in every batch") as caught:
        load(path)
    assert "eval()" in caught.value.hint


@pytest.mark.parametrize(
    ("features", "found"),
    [
        (torch.ones(4), r"float32 \[4\]"),
        (torch.ones(4, 2, 2), r"float32 \[4, 2, 2\]"),
        (torch.ones(3, 2), r"float32 \[3, 2\]"),
        (torch.ones(4, 0), r"float32 \[4, 0\]"),
        (torch.ones(4, 2, dtype=torch.int64), r"int64 \[4, 2\]"),
        (torch.full((4, 2), torch.nan), "NaN"),
    ],
)
def test_other_results_than_features_are_refused(
    tmp_path: Path, features: Tensor, found: str
) -> None:
    with pytest.raises(ObjectiveError, match=found):
        load(export(Fixed(features), tmp_path / "fixed.pt"))


def test_a_program_for_other_images_says_so(tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match="images that the exported program takes") as caught:
        load(export(Pooled().eval(), tmp_path / "grey.pt", declared={"shape": [1, 32, 32]}))
    assert "skiptune.json" in caught.value.hint
    extractor = load(export(Pooled().eval(), tmp_path / "colour.pt"))
    with pytest.raises(ObjectiveError, match=r"uint8 \[1, 1, 32, 32\]"):
        extractor(IMAGES[:1, :1])


@pytest.mark.parametrize(
    ("declared", "where"),
    [
        ([], "no JSON object"),
        ({"inputs": "float"}, "inputs"),
        ({"input": "bytes"}, '"bytes"'),
        ({"shape": [32, 32]}, "shape"),
        ({"shape": [3, 32, 0]}, "shape"),
        ({"shape": [3, 32, True]}, "shape"),
        ({"name": "inception"}, '"inception"'),
        ({"name": "My Network"}, "name"),
        ({"name": 3}, "name"),
    ],
)
def test_declarations_are_checked(tmp_path: Path, declared: Any, where: str) -> None:
    with pytest.raises(ObjectiveError, match=where):
        load(export(Bare(), tmp_path / "m.pt", declared=declared))


class Trap:
    """An object whose unpickling would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("trap-sprung"),))


def test_checkpoints_and_pickled_modules_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (Pooled(), Pooled().state_dict(), Trap()):
        for suffix in KINDS:
            path = Path(f"saved{suffix}")
            torch.save(content, path)
            with pytest.raises(ObjectiveError, match="program saved by torch"):
                load(path)
            path.write_bytes(pickle.dumps(content))
            with pytest.raises(ObjectiveError, match="program saved by torch"):
                load(path)
    assert not Path("trap-sprung").exists()


def test_no_pickle_inside_a_program_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each place from which torch.export.load would unpickle, and machine code."""
    monkeypatch.chdir(tmp_path)
    plain = export(Pooled().eval(), Path("plain.pt2"))
    with zipfile.ZipFile(plain) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["plain/data/weights/model_weights_config.json"])
    next(iter(config["config"].values()))["use_pickle"] = True
    opaque = {"config": {"k": {"path_name": "opaque_obj_0", "use_pickle": False}}}
    torch.save(Trap(), "trap.bin")
    trap = Path("trap.bin").read_bytes()
    for name, changed in {
        "sample_inputs": {"data/sample_inputs/model.pt": trap},
        "legacy weights": {"data/weights/model.pt": trap},
        "legacy constants": {"data/constants/model.pt": trap},
        "weights": {
            "data/weights/model_weights_config.json": json.dumps(config).encode(),
            "data/weights/weight_0": trap,
        },
        "constants": {
            "data/constants/model_constants_config.json": json.dumps(opaque).encode(),
            "data/constants/opaque_obj_0": pickle.dumps(Trap()),
        },
        "machine code": {"data/aotinductor/model/model.so": b""},
    }.items():
        path = Path("changed.pt2")
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in (
                members | {f"plain/{key}": value for key, value in changed.items()}
            ).items():
                archive.writestr(member, content)
        with pytest.raises(ObjectiveError, match=r"pickled object|no part of a plain"):
            load(path)
        assert not Path("trap-sprung").exists(), name


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    for suffix in KINDS:
        whole = export(Bare(), tmp_path / f"whole{suffix}").read_bytes()
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ObjectiveError, match="program saved by torch"):
            load(path)
    twice = tmp_path / "twice.pt2"
    with warnings.catch_warnings(), zipfile.ZipFile(twice, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a/models/model.json", "{}")
        archive.writestr("a/models/model.json", "{}")
    with pytest.raises(ObjectiveError, match="two members"):
        load(twice)


def test_a_file_is_needed_and_may_be_pinned(tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match="path of an exported program"):
        load_extractor("exported")
    with pytest.raises(ObjectiveError, match="no such file"):
        load(tmp_path / "none.pt")
    path = export(Bare(), tmp_path / "m.pt")
    assert load_extractor("exported", weights=path, sha256=file_digest(path)).dim == 3
    with pytest.raises(ObjectiveError, match="sha256"):
        load_extractor("exported", weights=path, sha256="0" * 64)
    other = path.rename(tmp_path / "m.onnx")
    with pytest.raises(ObjectiveError, match=r"'\.onnx'"):
        load(other)
