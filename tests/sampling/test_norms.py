"""Norms against a decoder run by hand at every call, and what measuring must not change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from skiptune.errors import NetworkError, SpecError
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample_float
from skiptune.sampling.networks import EDMPrecond
from skiptune.sampling.norms import norm_ratios
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.setting import Churn, Setting, sigmas
from skiptune.sampling.skips import find_skips
from tests.command_line import Outcome

SEEDS = range(40, 45)


def _by_hand(
    network: EDMPrecond,
    setting: Setting,
    schedule: Schedule | None = None,
    *,
    unlabelled: bool = True,
) -> dict[tuple[str, float], list[float]]:
    """Ratios per skip and level from a decoder written out, one image and call at a time."""
    schedule = schedule or Schedule.baseline()
    unet: Any = network.model
    calls: list[tuple[Tensor, float, Tensor | None]] = []
    plain = network.forward

    def watch(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        calls.append((x, float(sigma), class_labels))
        return plain(x, sigma, class_labels)

    vars(network)["forward"] = watch
    try:
        with torch.no_grad(), scaled(network, schedule):
            sample_float(network, setting, SEEDS)
    finally:
        del vars(network)["forward"]
    found: dict[tuple[str, float], list[float]] = {}
    for x, sigma, labels in calls:
        if labels is None and not unlabelled:
            continue
        level = torch.tensor(sigma, dtype=torch.float32, device=x.device)
        noise_label = (level.log() / 4).reshape(1)
        for i in range(len(x)):
            image = x[i : i + 1].float() / (level**2 + network.sigma_data**2).sqrt()
            with torch.no_grad():
                emb = unet._condition(noise_label, None if labels is None else labels[i], None)
                h, skips = unet._encode(image, emb)
                for name, module in unet.dec.items():
                    if "_block" in name:
                        skip = skips.pop() * schedule.scale(name, sigma)
                        ratio = float(skip.double().square().sum().sqrt())
                        ratio /= float(h.double().square().sum().sqrt())
                        found.setdefault((name, sigma), []).append(ratio)
                        h = module(torch.cat([h, skip], dim=1), emb)
                    elif "_aux_" not in name:
                        h = module(h, emb)
    return found


@pytest.mark.parametrize(
    "setting",
    [
        Setting(steps=3),
        Setting(solver="heun", steps=3),
        Setting(solver="euler", steps=2, labels=None),
        Setting(solver="heun", steps=2, churn=Churn(amount=1.0)),
    ],
)
def test_ratios_equal_a_decoder_by_hand(tiny_network: EDMPrecond, setting: Setting) -> None:
    found = norm_ratios(tiny_network, setting, SEEDS)
    expected = _by_hand(tiny_network, setting)
    assert found.addresses == tuple(skip.address for skip in find_skips(tiny_network))
    assert found.sigmas == tuple(sorted({sigma for _, sigma in expected}, reverse=True))
    if setting.churn.amount == 0:
        assert found.sigmas == sigmas(setting)[:-1]
    assert found.images == len(SEEDS)
    for address, row in zip(found.addresses, found.ratios, strict=True):
        for sigma, ratio in zip(found.sigmas, row, strict=True):
            values = expected[address, sigma]
            assert ratio == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_with_guidance_the_labelled_evaluations_count(tiny_network: EDMPrecond) -> None:
    setting = Setting(steps=2, guidance=2.0)
    found = norm_ratios(tiny_network, setting, SEEDS)
    labelled = _by_hand(tiny_network, setting, unlabelled=False)
    every = _by_hand(tiny_network, setting)
    address, sigma = found.addresses[0], found.sigmas[0]
    values = labelled[address, sigma]
    assert len(every[address, sigma]) == 2 * len(values) == 2 * len(SEEDS)
    assert found.ratios[0][0] == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_labels_are_heard(tiny_network: EDMPrecond) -> None:
    one, two = (norm_ratios(tiny_network, Setting(steps=1, labels=k), SEEDS) for k in (0, 1))
    assert one.ratios != two.ratios


@pytest.mark.parametrize("low", [0.0, 1.0])
def test_an_installed_schedule_s_skips_are_measured_scaled(
    tiny_network: EDMPrecond, low: float
) -> None:
    setting = Setting(steps=3)
    addresses = [skip.address for skip in find_skips(tiny_network)]
    schedule = Schedule([Term(addresses[0], 0.5, low), Term(addresses[2], 1.7, low)])
    with scaled(tiny_network, schedule):
        found = norm_ratios(tiny_network, setting, SEEDS)
    expected = _by_hand(tiny_network, setting, schedule)
    for address, row in zip(found.addresses, found.ratios, strict=True):
        for sigma, ratio in zip(found.sigmas, row, strict=True):
            values = expected[address, sigma]
            assert ratio == pytest.approx(sum(values) / len(values), rel=1e-4)
    # Nothing precedes the deepest skip of the first call that a schedule could change.
    plain = norm_ratios(tiny_network, setting, SEEDS)
    assert found.ratios[0][0] == pytest.approx(0.5 * plain.ratios[0][0], rel=1e-6)


def test_measuring_changes_no_image_and_leaves_nothing(tiny_network: EDMPrecond) -> None:
    setting = Setting(steps=2)
    with torch.no_grad():
        before = sample_float(tiny_network, setting, SEEDS)
    watched: list[Tensor] = []
    handle = tiny_network.register_forward_hook(
        lambda module, args, output: watched.append(output.clone())
    )
    try:
        norm_ratios(tiny_network, setting, SEEDS)
        during = list(watched)
        watched.clear()
        with torch.inference_mode():
            sample_float(tiny_network, setting, SEEDS)
    finally:
        handle.remove()
    assert len(during) == len(watched) == 2
    assert all(torch.equal(a, b) for a, b in zip(during, watched, strict=True))
    assert all(not module._forward_pre_hooks for module in tiny_network.modules())
    with torch.no_grad():
        assert torch.equal(sample_float(tiny_network, setting, SEEDS), before)


def test_hooks_go_when_sampling_fails(tiny_network: EDMPrecond) -> None:
    with pytest.raises(SpecError):
        norm_ratios(tiny_network, Setting(labels=7), SEEDS)
    with pytest.raises(SpecError, match="at least one"):
        norm_ratios(tiny_network, Setting(), [])
    with pytest.raises(NetworkError, match="training mode"):
        norm_ratios(tiny_network.train(), Setting(), SEEDS)
    assert all(not module._forward_pre_hooks for module in tiny_network.modules())


def test_a_network_that_runs_without_its_hooks_is_refused(
    tiny_network: EDMPrecond, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What `network.compile()` leaves behind: calls that pass hooks registered later by.
    monkeypatch.setattr(tiny_network, "_compiled_call_impl", tiny_network.forward)
    with pytest.raises(NetworkError, match=r"before torch\.compile"):
        norm_ratios(tiny_network, Setting(steps=1), SEEDS)


def test_the_command_shows_and_carries_what_is_measured(
    command: Callable[..., Outcome],
    tiny_network: EDMPrecond,
    write_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    path = write_checkpoint(tiny_network, tmp_path / "tiny.safetensors")
    shown = command("skips", path, "--norms")
    assert (shown.code, "\x1b" in shown.out) == (0, False)
    rows = [line.split() for line in shown.out.splitlines() if "_block" in line]
    carried = json.loads(command("skips", path, "--norms", "--json").out)
    norms = carried["norms"]
    assert norms["addresses"] == [skip["address"] for skip in carried["skips"]]
    assert norms["addresses"] == [row[0] for row in rows]
    assert norms["sigmas"] == list(sigmas(Setting())[:-1])
    found = norm_ratios(tiny_network.cpu(), Setting(), range(norms["images"]))
    for row, ratios, expected in zip(rows, norms["ratios"], found.ratios, strict=True):
        assert ratios == pytest.approx(expected, rel=1e-4)
        assert [float(cell) for cell in row[1:]] == pytest.approx(expected, abs=0.006)
    assert "norms" not in json.loads(command("skips", path, "--json").out)


def test_the_command_measures_under_the_study_s_setting(
    command: Callable[..., Outcome], study_folder: Path, tiny_study: Any
) -> None:
    spec = study_folder / "study.yaml"
    spec.write_text(json.dumps(tiny_study.spec(study_folder).to_json()), encoding="utf-8")
    carried = json.loads(command("skips", spec, "--norms", "--json", "-s", "setting.steps=4").out)
    assert carried["norms"]["sigmas"] == list(sigmas(Setting(steps=4))[:-1])
