"""Scores of images and prompts, held to transformers' own model and processor."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from skiptune.errors import ObjectiveError
from skiptune.objectives.clip_files import Preprocessing, clip_files
from skiptune.objectives.describe import describe
from skiptune.objectives.extractors import load_extractor
from skiptune.objectives.metrics import Sample, Standard, difference, measure, title
from skiptune.objectives.text_scores import load_text_score, pixel_values
from tests.clip_models import IMAGE, write_clip

PROMPTS = ("a cat", "a dog", "red", "blue", "two birds fly far over the hills and the sea")
CLIP = Preprocessing(224, 224, 1 / 255, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny")


def noise(images: int, size: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(
        0, 256, (images, channels, size, size), generator=generator, dtype=torch.uint8
    )


def by_transformers(folder: Path, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and logits of each image and its prompt, from what the package itself gives."""
    transformers: Any = importlib.import_module("transformers")
    model = transformers.CLIPModel.from_pretrained(str(folder)).eval()
    processor = transformers.CLIPProcessor.from_pretrained(str(folder))
    inputs = processor(
        text=list(PROMPTS),
        images=list(images),
        padding=True,
        truncation=True,
        max_length=20,
        return_tensors="pt",
    )
    with torch.no_grad():
        made = model(**inputs)
    rows = torch.arange(len(images))
    cosines = made.image_embeds @ made.text_embeds.T
    return cosines[rows, labels], made.logits_per_image[rows, labels]


def test_scores_are_those_of_transformers_model_and_processor(folder: Path) -> None:
    images, labels = noise(40, IMAGE), torch.arange(40) % len(PROMPTS)
    cosines, logits = by_transformers(folder, images, labels)
    assert (cosines < 0).any() and (cosines > 0).any()
    # torchmetrics: max(100 cos(E_I, E_C), 0).
    found = load_text_score("clip_score", folder, PROMPTS)(images, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, (100 * cosines).clamp_min(0), rtol=0, atol=1e-4)
    # PickScore's own code: logit_scale.exp() times the cosine, of both signs.
    found = load_text_score("pick_score", folder, PROMPTS)(images, labels)
    torch.testing.assert_close(found, logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [8, 16, 50])
def test_images_of_other_sizes_are_prepared_as_the_processor_does(folder: Path, size: int) -> None:
    transformers: Any = importlib.import_module("transformers")
    processor = transformers.CLIPImageProcessor.from_pretrained(str(folder))
    images, labels = noise(20, size), torch.arange(20) % len(PROMPTS)
    stated = processor(images=list(images), return_tensors="pt").pixel_values
    files = clip_files(folder)
    found = pixel_values(images, files.preprocessing)
    assert found.shape == stated.shape
    std = torch.tensor(files.preprocessing.std)[:, None, None]
    levels = ((found - stated).abs() * std * 255).round()
    assert levels.max() <= 2 and (levels > 0).float().mean() < 0.03
    cosines, _ = by_transformers(folder, images, labels)
    scores = load_text_score("clip_score", folder, PROMPTS)(images, labels)
    # Of 100: what a byte that is one level off now and then makes.
    torch.testing.assert_close(scores, (100 * cosines).clamp_min(0), rtol=0, atol=0.05)


@pytest.mark.parametrize("size", [32, 64, 300])
def test_images_are_brought_to_size_as_pillow_does_it(size: int) -> None:
    images = noise(3, size)
    each = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    resized = [np.array(one.resize((224, 224), Image.Resampling.BICUBIC)) for one in each]
    stated = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float()
    plain = Preprocessing(224, 224, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    off = (pixel_values(images, plain) - stated).abs()
    assert off.max() <= 2 and (off > 0).float().mean() < 0.02
    # In one step on floats the same images come out otherwise.
    once = F.interpolate(images.float(), (224, 224), mode="bicubic", antialias=True)
    assert ((once.clamp(0, 255).round() - stated) != 0).float().mean() > 0.1


def test_grey_images_are_seen_as_colour_and_the_middle_is_cut_out() -> None:
    grey = noise(2, 224, channels=1)
    torch.testing.assert_close(
        pixel_values(grey, CLIP), pixel_values(grey.expand(-1, 3, -1, -1), CLIP)
    )
    smaller = Preprocessing(224, 200, CLIP.factor, CLIP.mean, CLIP.std)
    middle = pixel_values(grey, CLIP)[:, :, 12:212, 12:212]
    assert torch.equal(pixel_values(grey, smaller), middle)


@pytest.mark.parametrize(
    "images",
    [noise(1, 8, channels=4), noise(1, 8).float(), noise(1, 8)[0], noise(1, 8)[:, :, :4]],
)
def test_what_is_no_image_is_refused(images: Tensor) -> None:
    with pytest.raises(ObjectiveError, match=r"expected uint8 \[N, 3, S, S\]"):
        pixel_values(images, CLIP)


def test_a_score_does_not_depend_on_what_is_scored_with_it(folder: Path) -> None:
    score = load_text_score("clip_score", folder, PROMPTS)
    images, labels = noise(6, IMAGE), torch.tensor([4, 0, 1, 1, 3, 2])
    together = score(images, labels)
    for index in range(6):
        alone = load_text_score("clip_score", folder, PROMPTS)(
            images[index : index + 1], labels[index : index + 1]
        )
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-4)


def test_a_metric_is_the_mean_of_its_images_and_more_is_better() -> None:
    values = np.array([20, 24, 22, 30], np.float32)
    found = measure(["clip_score"], Sample.of(clip_score=values), Standard())["clip_score"]
    assert found.value.value == 24
    assert found.value.standard_error == pytest.approx(values.std(ddof=1) / 2)
    lower = measure(["clip_score"], Sample.of(clip_score=values - 1), Standard())["clip_score"]
    change = difference(lower, found)
    assert change.value == 1
    assert change.standard_error == pytest.approx(0, abs=1e-12)
    assert title("clip_score", "ViT-L/14", 2000) == "CLIP score(ViT-L/14)-2k"


def test_the_measure_tells_models_and_rules_apart(folder: Path, tmp_path: Path) -> None:
    clip = load_text_score("clip_score", folder, PROMPTS)
    assert clip.name == "ViT-32x2/8@32"
    extractor = load_extractor("dct")
    plain = describe(extractor, texts={"clip_score": clip.describe()})
    assert plain["arrays"] == ["features", "clip_score"]
    assert plain["texts"]["clip_score"]["sha256"] == clip_files(folder).digest()[0]
    assert json.loads(json.dumps(plain)) == plain
    assert "texts" not in describe(extractor)
    other = load_text_score("clip_score", write_clip(tmp_path / "other", seed=1), PROMPTS)
    assert other.describe()["sha256"] != clip.describe()["sha256"]
    pick = load_text_score("pick_score", folder, PROMPTS)
    assert pick.describe() == {**clip.describe(), "rule": "exp(logit_scale) cos"}


def test_a_model_without_transformers_names_what_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ObjectiveError, match="the package transformers") as caught:
        load_text_score("clip_score", folder, PROMPTS)
    assert caught.value.hint == "pip install 'skiptune[text]'"


def test_weights_of_something_else_are_refused(folder: Path, tmp_path: Path) -> None:
    # transformers itself would go on with random numbers in their place.
    other = write_clip(tmp_path / "other")
    state = load_file(other / "model.safetensors")
    visual = {name: value for name, value in state.items() if not name.startswith("vision")}
    save_file(visual, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ObjectiveError, match=r"found no vision_model\S+ of the model's shape"):
        load_text_score("clip_score", other, PROMPTS)
    (other / "model.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(ObjectiveError, match="a CLIP model and its tokenizer as save_pretrained"):
        load_text_score("clip_score", other, PROMPTS)


def test_scores_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    broken = write_clip(tmp_path / "broken")
    state = load_file(broken / "model.safetensors")
    state["text_projection.weight"] *= float("nan")
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    score = load_text_score("pick_score", broken, PROMPTS)
    with pytest.raises(ObjectiveError, match="PickScore of ViT-32x2/8@32: expected finite"):
        score(noise(1, IMAGE), torch.zeros(1, dtype=torch.int64))


def test_a_processor_for_another_model_is_refused(tmp_path: Path) -> None:
    other = write_clip(tmp_path / "other")
    place = other / "processor_config.json"
    plain = json.loads(place.read_text())
    plain["image_processor"]["crop_size"] = 24
    place.write_text(json.dumps(plain))
    with pytest.raises(ObjectiveError, match="crop_size: expected 32"):
        load_text_score("clip_score", other, PROMPTS)
