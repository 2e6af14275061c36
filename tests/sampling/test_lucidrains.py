"""lucidrains' `Unet`: its structure, on a network of its names.

`bench/parity_openai` runs the one of the package.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from skiptune.errors import NetworkError
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample_float
from skiptune.sampling.networks import build_denoiser
from skiptune.sampling.networks.lucidrains import PACKAGE
from skiptune.sampling.options import config_of
from skiptune.sampling.published import read_published
from skiptune.sampling.schedule import Schedule
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import find_places, find_skips
from skiptune.sampling.tracing import trace_skips
from tests.sampling.lucidrains_like import package

OPTIONS: dict[str, Any] = {
    "family": "lucidrains",
    "image_size": 8,
    "channels": 1,
    "dim": 4,
    "dim_mults": [1, 2],
}
ADDRESSES = ("ups.0.0", "ups.0.1", "ups.1.0", "ups.1.1", "final_res_block")


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A denoiser around a network of random weights."""
    monkeypatch.setitem(sys.modules, PACKAGE, package())
    torch.manual_seed(0)
    made = build_denoiser(config_of(OPTIONS, where="options").config)
    return made.eval().requires_grad_(False)


def test_there_are_two_skips_per_level_and_the_final_one(network: Any) -> None:
    places = find_places(network)
    assert tuple(place.skip.address for place in places) == ADDRESSES
    assert [p.skip.resolution for p in places] == [4, 4, 8, 8, 8]
    assert [(p.skip.main_channels, p.skip.skip_channels) for p in places] == [
        (8, 4),
        (8, 4),
        (4, 4),
        (4, 4),
        (4, 4),
    ]
    traced = trace_skips(network, torch.randn(1, 1, 8, 8), torch.tensor(1.0))
    assert [p.site for p in traced] == [p.site for p in places]
    # Two convolutions read the joined tensor: which is the shortcut cannot be seen.
    assert {p.shortcut for p in traced} == {p.residual for p in traced} == {None}


@pytest.mark.parametrize("part", ["both", "shortcut", "residual"])
def test_hooks_do_what_the_scaled_skip_does(network: Any, part: str) -> None:
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor(1.5)
    before = network(x, sigma)
    scales = dict(zip(ADDRESSES, (0.6, 1.2, 0.8, 0.5, 1.3), strict=True))
    schedule = Schedule.uniform(scales, part=part)
    with scaled(network, schedule), torch.inference_mode():
        found = network(x, sigma).clone()
    places = find_places(network)
    if part == "both":
        network.model.factors = scales
    # Nothing normalises what the block's convolutions read: a part is columns of one weight.
    for place in places if part != "both" else ():
        module: Any = place.shortcut if part == "shortcut" else place.residual
        if module is not None:
            module.weight[:, place.skip.main_channels :] *= scales[place.skip.address]
    torch.testing.assert_close(found, network(x, sigma), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, before, atol=1e-4)


@pytest.mark.parametrize("layout", ["ema", "diffusion", "bare"])
def test_files_of_the_trainer_are_read(network: Any, tmp_path: Path, layout: str) -> None:
    own = network.model.state_dict()
    diffusion = {f"model.{name}": tensor for name, tensor in own.items()}
    content: Any = {
        "ema": {
            "step": 5,
            "model": {name: torch.zeros_like(tensor) for name, tensor in diffusion.items()},
            "ema": {
                "initted": torch.tensor(True),
                **{f"online_model.{n}": torch.zeros_like(t) for n, t in diffusion.items()},
                **{f"ema_model.{n}": t for n, t in diffusion.items()},
            },
        },
        "diffusion": {**diffusion, "betas": torch.zeros(1000)},
        "bare": own,
    }[layout]
    torch.save(content, tmp_path / "model-9.pt")
    read = read_published(tmp_path / "model-9.pt", OPTIONS, where="options")
    twin = build_denoiser(read.config).eval()
    twin.load_state_dict(read.tensors, strict=True)
    x, sigma = torch.randn(1, 1, 8, 8), torch.tensor(0.7)
    assert torch.equal(twin(x, sigma), network(x, sigma))
    assert [skip.address for skip in find_skips(twin)] == list(ADDRESSES)


def test_images_are_sampled(network: Any) -> None:
    setting = Setting(solver="euler", steps=3, sigma_min=0.1, sigma_max=50.0, labels=None)
    assert sample_float(network, setting, [1, 2]).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"self_condition": True}, "self_condition"),
        ({"objective": "pred_u"}, "pred_u"),
        ({"auto_normalize": False}, "auto_normalize"),
    ],
)
def test_other_networks_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(NetworkError, match=reason):
        config_of({**OPTIONS, **change}, where="options")


def test_what_cannot_be_built_is_refused(network: Any) -> None:
    config = config_of(OPTIONS, where="options").config
    with pytest.raises(NetworkError, match="cannot be halved"):
        build_denoiser({**config, "img_resolution": 9})
    with pytest.raises(NetworkError, match="knows no classes"):
        build_denoiser({**config, "label_dim": 3})


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(NetworkError, match="denoising-diffusion-pytorch") as caught:
        build_denoiser(config_of(OPTIONS, where="options").config)
    assert caught.value.hint == "pip install 'skiptune[lucidrains]'"
