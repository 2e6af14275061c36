from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from skiptune.canonical import file_digest
from skiptune.errors import ObjectiveError
from skiptune.objectives import dinov2
from skiptune.objectives.dinov2 import LARGE, Architecture, DinoV2
from skiptune.objectives.extractors import Extractor, load_extractor
from skiptune.objectives.names import DINOV2_SHA256
from skiptune.objectives.weights import fill

Array = NDArray[np.float64]

SMALL = Architecture(width=12, depth=2, heads=3, grid=5, size=42)


@pytest.fixture
def network() -> DinoV2:
    """A small network of random weights in which every part matters."""
    torch.manual_seed(0)
    network = DinoV2(SMALL).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return network


def test_names_and_shapes_are_those_of_the_official_file() -> None:
    shapes = {
        "cls_token": (1, 1, 1024),
        "pos_embed": (1, 1370, 1024),
        "mask_token": (1, 1024),
        "patch_embed.proj.weight": (1024, 3, 14, 14),
        "patch_embed.proj.bias": (1024,),
        "norm.weight": (1024,),
        "norm.bias": (1024,),
    }
    for index in range(24):
        block = {
            "attn.qkv.weight": (3072, 1024),
            "attn.qkv.bias": (3072,),
            "attn.proj.weight": (1024, 1024),
            "attn.proj.bias": (1024,),
            "mlp.fc1.weight": (4096, 1024),
            "mlp.fc1.bias": (4096,),
            "mlp.fc2.weight": (1024, 4096),
            "mlp.fc2.bias": (1024,),
        }
        block |= {f"norm{place}.{part}": (1024,) for place in "12" for part in ("weight", "bias")}
        block |= {f"ls{place}.gamma": (1024,) for place in "12"}
        shapes |= {f"blocks.{index}.{name}": shape for name, shape in block.items()}
    found = {name: tuple(value.shape) for name, value in dinov2.build(LARGE).state_dict().items()}
    assert found == shapes
    # 304.4 million, as the model card says; float32, the official file has 1,217,586,395 bytes.
    assert sum(math.prod(shape) for shape in shapes.values()) == 304_368_640


def plainly(network: DinoV2, images: NDArray[np.uint8]) -> Array:
    """The same features in numpy, one token, head and patch at a time."""
    shape = network.architecture
    state = {name: value.double().numpy() for name, value in network.state_dict().items()}
    side = shape.size // shape.patch

    def normed(x: Array, name: str) -> Array:
        centred = x - x.mean()
        scaled = centred / np.sqrt((centred**2).mean() + 1e-6)
        result: Array = scaled * state[f"{name}.weight"] + state[f"{name}.bias"]
        return result

    def linear(x: Array, name: str) -> Array:
        result: Array = state[f"{name}.weight"] @ x + state[f"{name}.bias"]
        return result

    positions = [state["pos_embed"][0, 0]]
    grid = state["pos_embed"][0, 1:].reshape(shape.grid, shape.grid, shape.width)
    spread = cubic_weights(shape.grid, side, (side + 0.1) / shape.grid)
    for row in range(side):
        for column in range(side):
            positions.append(np.einsum("i,j,ijd->d", spread[row], spread[column], grid))

    features = []
    for image in images:
        planes = [
            np.asarray(
                Image.fromarray(plane.astype(np.float32)).resize(
                    (shape.size, shape.size), Image.Resampling.BICUBIC
                ),
                dtype=np.float64,
            )
            for plane in image
        ]
        x = np.stack(planes) / 255
        x = (x - np.array([[[0.485]], [[0.456]], [[0.406]]])) / np.array(
            [[[0.229]], [[0.224]], [[0.225]]]
        )
        tokens = [state["cls_token"][0, 0] + positions[0]]
        for row in range(side):
            for column in range(side):
                top, left = row * shape.patch, column * shape.patch
                patch = x[:, top : top + shape.patch, left : left + shape.patch]
                token = np.einsum("cij,dcij->d", patch, state["patch_embed.proj.weight"])
                token = token + state["patch_embed.proj.bias"]
                tokens.append(token + positions[len(tokens)])
        for index in range(shape.depth):
            tokens = blocked(tokens, f"blocks.{index}", shape, state, normed, linear)
        features.append(normed(tokens[0], "norm"))
    return np.stack(features)


def blocked(
    tokens: list[Array],
    block: str,
    shape: Architecture,
    state: dict[str, Array],
    normed: Any,
    linear: Any,
) -> list[Array]:
    part = shape.width // shape.heads
    triples = [linear(normed(x, f"{block}.norm1"), f"{block}.attn.qkv") for x in tokens]
    queries, keys, values = (
        [triple[i * shape.width : (i + 1) * shape.width] for triple in triples] for i in range(3)
    )
    attended = []
    for x, query in zip(tokens, queries, strict=True):
        heads = []
        for head in range(shape.heads):
            cut = slice(head * part, (head + 1) * part)
            weights = np.exp([query[cut] @ key[cut] / math.sqrt(part) for key in keys])
            weights /= weights.sum()
            heads.append(sum(w * value[cut] for w, value in zip(weights, values, strict=True)))
        out = linear(np.concatenate(heads), f"{block}.attn.proj")
        attended.append(x + state[f"{block}.ls1.gamma"] * out)
    result = []
    for x in attended:
        inner = linear(normed(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        inner = np.array([h * 0.5 * (1 + math.erf(h / math.sqrt(2))) for h in inner])
        result.append(x + state[f"{block}.ls2.gamma"] * linear(inner, f"{block}.mlp.fc2"))
    return result


def cubic_weights(inputs: int, outputs: int, scale: float) -> Array:
    """Weights [outputs, inputs] of cubic convolution (Keys 1981, a = -0.75), edges repeated."""

    def kernel(x: float) -> float:
        x, a = abs(x), -0.75
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    weights = np.zeros((outputs, inputs))
    for output in range(outputs):
        centre = (output + 0.5) / scale - 0.5
        first = math.floor(centre)
        for place in range(first - 1, first + 3):
            weights[output, min(max(place, 0), inputs - 1)] += kernel(centre - place)
    return weights


def test_features_equal_a_plain_computation(network: DinoV2) -> None:
    images = np.random.default_rng(0).integers(256, size=(2, 3, 20, 30), dtype=np.uint8)
    with torch.inference_mode():
        found = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, plainly(network, images), rtol=1e-4, atol=2e-5)


def test_grey_images_are_colour_images_without_colour(network: DinoV2) -> None:
    grey = torch.randint(256, (2, 1, 20, 20), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(network(grey), network(grey.repeat(1, 3, 1, 1)))


def test_the_position_embedding_is_taken_as_it_is_at_its_own_size() -> None:
    network = DinoV2(Architecture(width=12, depth=1, heads=3, grid=3, size=42))
    assert network._positions() is network.pos_embed


def test_bytes_and_floats_on_their_grid_have_equal_features(network: DinoV2) -> None:
    extractor = Extractor("small", 12, "0" * 64, dinov2.PREPROCESS, network, floats=True)
    images = torch.randint(256, (3, 3, 20, 20), dtype=torch.uint8)
    floats = (images.float() / 127.5 - 1).requires_grad_(True)
    features = extractor.of_floats(floats)
    torch.testing.assert_close(features.detach(), extractor(images), rtol=1e-4, atol=1e-5)
    features.square().sum().backward()
    assert floats.grad is not None and bool((floats.grad != 0).any())


def test_a_network_without_memory_is_filled_from_a_file(network: DinoV2, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    filled = dinov2.build(SMALL)
    fill(filled, path, name="dinov2")
    images = torch.randint(256, (1, 3, 20, 20), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(filled.eval()(images), network(images))


def test_other_weights_are_refused(network: DinoV2, tmp_path: Path) -> None:
    path = tmp_path / "small.pth"
    torch.save(network.state_dict(), path)
    with pytest.raises(ObjectiveError, match=DINOV2_SHA256):
        load_extractor("dinov2", weights=path)
    with pytest.raises(ObjectiveError, match="something else"):
        load_extractor("dinov2", weights=path, sha256=file_digest(path))


def test_without_weights_it_says_which_file_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(ObjectiveError, match="no route to host") as caught:
        load_extractor("dinov2")
    assert str(tmp_path / "checkpoints" / "dinov2_vitl14_pretrain.pth") in caught.value.hint
