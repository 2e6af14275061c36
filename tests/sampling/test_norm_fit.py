from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skiptune.sampling.fold import fold
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import sample_float
from skiptune.sampling.norm_fit import fit_norms
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.setting import Setting
from skiptune.sampling.skips import decoder_blocks, find_skips
from tests.sampling.families import FAMILIES, hooks_of, network_of

SETTING = Setting(solver="euler", steps=2)
SEEDS = [5, 6, 7]


@pytest.fixture(scope="module")
def network() -> Any:
    return network_of(FAMILIES["adm-edm"])


@pytest.fixture(scope="module")
def schedule(network: Any) -> Schedule:
    skips = find_skips(network)
    return Schedule.uniform({s.address: (0.5, 1.4, 0.7, 0.1)[s.index] for s in skips})


def test_lines_are_least_squares_through_what_the_blocks_receive(
    network: Any, schedule: Schedule
) -> None:
    found = fit_norms(network, schedule, SETTING, SEEDS)
    received: dict[str, list[torch.Tensor]] = {}
    hooks = [
        block.register_forward_pre_hook(
            lambda module, args, address=address: received.setdefault(address, []).append(
                args[0].double().clone()
            )
        )
        for address, block in decoder_blocks(network).items()
    ]
    with scaled(network, schedule), torch.inference_mode():
        sample_float(network, SETTING, SEEDS)
    for hook in hooks:
        hook.remove()
    assert hooks_of(network) == []
    assert list(found) == [skip.address for skip in find_skips(network)]
    for skip, block in zip(find_skips(network), decoder_blocks(network).values(), strict=True):
        norm: Any = block.get_submodule("norm0")
        z = torch.cat(received[skip.address])
        after = z.clone()
        after[:, skip.main_channels :] *= schedule.scale(skip.address, 1.0)
        u, v = (F.group_norm(each, norm.num_groups, eps=norm.eps) for each in (z, after))
        fit = found[skip.address]
        assert fit.start <= skip.main_channels
        assert torch.equal(u[:, : fit.start], v[:, : fit.start])
        width = z.shape[1] // norm.num_groups
        assert fit.start == skip.main_channels - skip.main_channels % width
        for place in range(0, len(fit.factor), 7):
            one, two = (each[:, fit.start + place].flatten().numpy() for each in (u, v))
            slope, offset = np.polyfit(one, two, 1)
            assert float(fit.factor[place]) == pytest.approx(slope, abs=1e-9)
            assert float(fit.shift[place]) == pytest.approx(offset, abs=1e-9)


def test_groups_of_the_skip_alone_keep_their_gain_but_for_eps(
    network: Any, schedule: Schedule
) -> None:
    found = fit_norms(network, schedule, SETTING, SEEDS)
    for skip in find_skips(network):
        fit = found[skip.address]
        width = (skip.main_channels + skip.skip_channels) // skip.groups
        alone = slice(width if skip.mixed else 0, None)
        scale = schedule.scale(skip.address, 1.0)
        off = 1 - fit.factor[alone]
        # eps (1 / s^2 - 1) / (2 v), the variance v being somewhere about 1.
        assert 0 < float((off * (1 if scale < 1 else -1)).min())
        assert float(off.abs().max()) < 1e-5 * abs(1 / scale**2 - 1) / (2 * 0.05)
        assert float(fit.shift[alone].abs().max()) < 1e-3 * scale**-2
        if skip.mixed:
            assert float((1 - fit.factor[:width]).abs().max()) > 0.05


def test_only_scaled_skips_behind_a_normalisation_are_fitted(network: Any) -> None:
    one, two, *_ = (skip.address for skip in find_skips(network))
    schedule = Schedule([Term(one, 0.5, part="residual"), Term(two, 0.5)])
    assert list(fit_norms(network, schedule, SETTING, SEEDS)) == [two]
    assert fit_norms(network, Schedule.baseline(), SETTING, SEEDS) == {}
    uvit = network_of(FAMILIES["uvit"])
    whole = Schedule.uniform({skip.address: 0.8 for skip in find_skips(uvit)})
    assert fit_norms(uvit, whole, SETTING, SEEDS) == {}
    plain = network_of(FAMILIES["adm-edm"])
    decoder_blocks(plain)[two].norm0 = nn.GroupNorm(32, 192, affine=False)
    assert fit_norms(plain, schedule, SETTING, SEEDS) == {}


def test_channels_that_are_the_same_everywhere_are_shifted_alone() -> None:
    network = network_of(FAMILIES["adm-edm"])
    skip = next(s for s in find_skips(network) if s.mixed)
    block = decoder_blocks(network)[skip.address]
    values = torch.linspace(-1, 2, skip.skip_channels).reshape(-1, 1, 1)
    values[-(skip.main_channels + skip.skip_channels) // skip.groups :] = 0  # a whole group
    received: list[torch.Tensor] = []

    def even(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        z = args[0].clone()
        z[:, skip.main_channels :] = values
        received.append(z.double())
        return (z, *args[1:])

    block.register_forward_pre_hook(even)
    # One state of one image, three times: the groups' means and variances differ nowhere.
    once, schedule = Setting(solver="euler", steps=1), Schedule.uniform({skip.address: 0.5})
    fit = fit_norms(network, schedule, once, [5, 5, 5])[skip.address]
    (before,) = received
    after = before.clone()
    after[:, skip.main_channels :] *= 0.5
    norm: Any = block.get_submodule("norm0")
    u, v = (
        F.group_norm(z, norm.num_groups, eps=norm.eps)[0, skip.main_channels :, 0, 0]
        for z in (before, after)
    )
    own = slice(skip.main_channels - fit.start, None)
    assert bool((fit.factor[own] == 1).all())
    torch.testing.assert_close(fit.shift[own], v - u, atol=1e-9, rtol=0)
    assert float((v - u).abs().max()) > 1e-3


def test_one_group_of_all_channels_is_fitted_from_the_first_on() -> None:
    network = network_of(FAMILIES["diffusers-classes"], norm_num_groups=1)
    skip = find_skips(network)[0]
    assert skip.groups == 1
    schedule = Schedule.uniform({skip.address: 0.5})
    setting = Setting(solver="euler", steps=2, sigma_min=0.1, sigma_max=10.0)
    fit = fit_norms(network, schedule, setting, SEEDS)[skip.address]
    assert (fit.start, len(fit.factor)) == (0, skip.main_channels + skip.skip_channels)
    # Without some of its variance, all of the main path is larger behind the normalisation.
    assert bool((fit.factor[: skip.main_channels] > 1).all())
    assert bool((fit.factor[skip.main_channels :] < 1).all())


def test_a_dropped_skip_leaves_the_bias_alone(network: Any) -> None:
    skip = next(s for s in find_skips(network) if not s.mixed)
    schedule = Schedule.uniform({skip.address: 0.0})
    fits = fit_norms(network, schedule, SETTING, SEEDS)
    assert not fits[skip.address].factor.any()
    assert not fits[skip.address].shift.any()
    state = network.state_dict()
    fitted = fold(network, schedule, fitted=fits).apply(state)
    plain = fold(network, schedule).apply(state)
    for key, tensor in plain.items():
        assert torch.equal(fitted[key], tensor)
