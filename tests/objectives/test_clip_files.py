"""What the folder of a CLIP model holds: what is read of it, hashed and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from skiptune.errors import ObjectiveError
from skiptune.objectives.clip_files import clip_files

# As OpenAI's and LAION's models of the hub have them.
OLD: dict[str, Any] = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "clip"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "clip"}')
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "vocab.json").write_text("{}")
    (model / "merges.txt").write_text("")
    (model / "preprocessor_config.json").write_text(json.dumps(OLD))
    return model


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ObjectiveError, match=match):
        clip_files(folder)


def processor(folder: Path, **changes: Any) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(OLD | changes))
    return folder


def test_a_model_of_the_hub_is_read(folder: Path) -> None:
    files = clip_files(folder)
    assert files.weights == (folder / "model.safetensors",)
    assert [path.name for path in files.tokenizer] == ["vocab.json", "merges.txt"]
    preprocessing = files.preprocessing
    assert (preprocessing.size, preprocessing.crop) == (224, 224)
    assert preprocessing.factor == 1 / 255
    assert preprocessing.mean == tuple(OLD["image_mean"])


def test_all_ways_of_writing_the_same_are_the_same_model(folder: Path) -> None:
    before = clip_files(folder).digest()
    square = {"height": 224, "width": 224}
    new = OLD | {"size": {"shortest_edge": 224}, "crop_size": square, "do_rescale": True}
    processor(folder, **new, rescale_factor=0.00392156862745098)
    assert clip_files(folder).digest() == before
    processor(folder, size=square)
    assert clip_files(folder).digest() == before
    (folder / "preprocessor_config.json").unlink()
    inside = {"image_processor": new, "processor_class": "CLIPProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(inside))
    assert clip_files(folder).digest() == before
    (folder / "README.md").write_text("words")
    moved = folder.rename(folder.parent / "moved")
    assert clip_files(moved).digest() == before


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "vocab.json", "preprocessor_config.json"]
)
def test_whatever_decides_is_part_of_the_hash(folder: Path, name: str) -> None:
    before = clip_files(folder).digest()[0]
    texts = {
        "config.json": '{"model_type": "clip", "projection_dim": 8}',
        "preprocessor_config.json": json.dumps(OLD | {"image_mean": [0.5, 0.5, 0.5]}),
    }
    (folder / name).write_text(texts.get(name, "{ }"))
    assert clip_files(folder).digest()[0] != before


def test_weights_in_several_files(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    (folder / "one.safetensors").write_bytes(b"1")
    refused(folder, "two.safetensors, found no such file")
    (folder / "two.safetensors").write_bytes(b"2")
    assert [path.name for path in clip_files(folder).weights] == [
        "one.safetensors",
        "two.safetensors",
    ]
    index.write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}))
    refused(folder, "`weight_map`, from tensors to .safetensors files beside it")


def test_pickles_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, r"found pytorch_model\.bin, a pickle, which runs code when it is loaded")


def test_other_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "found no such folder")
    refused(tmp_path, "found a folder without it")
    (folder / "vocab.json").unlink()
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ObjectiveError) as caught:
        clip_files(folder)
    assert [problem.where for problem in caught.value.problems] == [
        f"{folder}: tokenizer",
        f"{folder}: processor",
    ]
    (folder / "config.json").write_text('{"model_type": "siglip"}')
    refused(folder, "model_type: expected clip, .*found siglip")
    (folder / "config.json").write_text("no JSON")
    refused(folder, "expected a JSON object")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"do_resize": False}, "do_resize"),
        ({"do_center_crop": False}, "do_center_crop"),
        ({"resample": 2}, "resample"),
        ({"size": {"height": 224, "width": 200}}, "size"),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "size"),
        ({"size": True}, "size"),
        ({"crop_size": 336}, "crop_size"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"image_std": [0.2, 0.2, 0]}, "image_std"),
        ({"image_mean": [0.5]}, "image_mean"),
    ],
)
def test_a_processor_that_does_something_else_is_refused(
    folder: Path, changes: dict[str, Any], key: str
) -> None:
    refused(processor(folder, **changes), rf"preprocessor_config\.json: {key}: expected")
