"""The recipes for others' sampling scripts: run on our networks, and shown in their READMEs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from integrations.consistency_models import plain_hooks as cm_plain
from integrations.consistency_models import with_skiptune as cm_skiptune
from integrations.edm import plain_hooks as edm_plain
from integrations.edm import with_skiptune as edm_skiptune
from skiptune.errors import NetworkError
from skiptune.sampling.hooks import scaled
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import find_skips
from tests.integrations.handed_over import schedules, write_tuned
from tests.sampling.families import FAMILIES, hooks_of, network_of

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "integrations").glob("*/with_skiptune.py")) + sorted(
    (ROOT / "integrations").glob("*/plain_hooks.py")
)
EDM = ["ddpmpp-edm", "ncsnpp-ve", "adm-edm"]
KINDS = ["static", "windowed", "one"]
LEVELS = (60.0, 12.0, 3.0, 0.8)
TUNED_AT = Setting(solver="heun", steps=len(LEVELS), sigmas=LEVELS)
"""What the networks are called at; elsewhere the recipes with skiptune would warn."""


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.no_grad():
        yield


def heun(denoise: Callable[..., Tensor]) -> Tensor:
    """Sample as EDM's script does: Heun's steps in float64 (arXiv 2206.00364, algorithm 1)."""
    generator = torch.Generator().manual_seed(7)
    levels = torch.tensor([*LEVELS, 0.0], dtype=torch.float64)
    rows = torch.eye(3)
    x = levels[0] * torch.randn(3, 1, 8, 8, generator=generator, dtype=torch.float64)
    for now, after in pairwise(levels):
        slope = (x - denoise(x, now, rows).double()) / now
        made = x + (after - now) * slope
        if after > 0:
            again = (made - denoise(made, after, rows).double()) / after
            made = x + (after - now) * (slope + again) / 2
        x = made
    return x


def by_hooks(network: Any, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Return the images of skiptune's hooks, and those of the untouched network."""
    with scaled(network, schedule):
        tuned = heun(network)
    untouched = heun(network)
    assert not torch.allclose(tuned, untouched, rtol=1e-4)
    return tuned, untouched


def of_network(network: Any) -> dict[str, Schedule]:
    return schedules([skip.address for skip in find_skips(network)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EDM)
def test_edm(name: str, kind: str, tmp_path: Path) -> None:
    network = network_of(FAMILIES[name])
    schedule = of_network(network)[kind]
    path = str(write_tuned(tmp_path / "tuned.json", network, schedule, setting=TUNED_AT))
    tuned, untouched = by_hooks(network, schedule)
    handle = edm_skiptune.install(network, path)
    assert torch.equal(heun(network), tuned)
    handle.remove()
    hooks = edm_plain.install(network, path)
    assert torch.equal(heun(network), tuned)
    for hook in hooks:
        hook.remove()
    assert torch.equal(heun(network), untouched) and not hooks_of(network)


@pytest.mark.parametrize("kind", KINDS)
def test_consistency_models(kind: str, tmp_path: Path) -> None:
    network = network_of(FAMILIES["consistency"])
    schedule = of_network(network)[kind]
    path = str(write_tuned(tmp_path / "tuned.json", network, schedule, setting=TUNED_AT))
    tuned, untouched = by_hooks(network, schedule)

    def through(model: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return the denoiser around a model; the model is told 250 log(sigma)."""

        def denoise(x: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
            skip, out, scale, told = network.coefficients(sigma.float().reshape(1, 1, 1, 1))
            made = model((scale * x.float()), told.flatten().expand(len(x)), rows)
            return skip * x.float() + out * made  # type: ignore[no-any-return]

        return denoise

    assert torch.equal(heun(through(network.model)), untouched)
    call, handle = cm_skiptune.install(network.model, path)
    assert torch.equal(heun(through(call)), tuned)
    handle.remove()
    hooks = cm_plain.install(network.model, path)
    assert torch.equal(heun(through(network.model)), tuned)
    for hook in hooks:
        hook.remove()
    assert torch.equal(heun(through(network.model)), untouched) and not hooks_of(network)


@pytest.mark.parametrize("name", ["ddpmpp-edm", "consistency"])
def test_what_they_cannot_apply_is_refused(name: str, tmp_path: Path) -> None:
    network = network_of(FAMILIES[name])
    plain: Any = edm_plain if name in EDM else cm_plain
    net = network if name in EDM else network.model
    first = find_skips(network)[0].address
    for schedule, setting in (
        (Schedule([Term(first, 0.5, part="shortcut")]), Setting()),
        (Schedule([Term(first, 0.5)], branches="cond"), Setting(guidance=2.0)),
    ):
        path = write_tuned(tmp_path / "tuned.json", network, schedule, setting=setting)
        with pytest.raises(ValueError, match="expected version 1, whole skips and both branches"):
            plain.install(net, str(path))
    assert not hooks_of(network)


@pytest.mark.parametrize("name", ["ddpmpp-edm", "consistency"])
def test_another_network_is_refused(name: str, tmp_path: Path) -> None:
    network = network_of(FAMILIES[name])
    wider = network_of(FAMILIES[name], channel_mult=[2, 4])
    path = str(write_tuned(tmp_path / "tuned.json", network, of_network(network)["static"]))
    net, modules = wider, (edm_skiptune, edm_plain)
    if name == "consistency":
        net, modules = wider.model, (cm_skiptune, cm_plain)
    with_skiptune, plain = modules
    with pytest.raises(NetworkError, match="expected"):
        with_skiptune.install(net, path)
    with pytest.raises(ValueError, match="channels: another network"):
        plain.install(net, path)
        heun(wider)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_readmes_show_the_files(path: Path) -> None:
    shown = f"```python\n{path.read_text()}```\n"
    assert shown in (path.parent / "README.md").read_text()
    assert len(path.read_text().splitlines()) <= 45


def test_pictures_are_small_and_links_lead_somewhere() -> None:
    for readme in (ROOT / "integrations").rglob("README.md"):
        text = readme.read_text()
        pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
        assert pictures or readme.parent.name == "integrations"
        for picture in pictures:
            assert (readme.parent / picture).stat().st_size <= 60_000
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            assert link.startswith("https://") or (readme.parent / link).exists(), link


def test_there_are_four() -> None:
    assert len(RECIPES) == 4
