"""Images: what they depend on, what they do not, and what is counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skiptune.errors import NetworkError, SpecError
from skiptune.sampling.hooks import scaled
from skiptune.sampling.images import Batch, Counted, sample, sample_float, start, to_uint8
from skiptune.sampling.networks import EDMPrecond, build
from skiptune.sampling.noise import CounterStreams, ImageStreams
from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.setting import Churn, Setting, evaluations, sigmas
from skiptune.sampling.solvers import solve

_SETTINGS = [
    Setting(solver="dpmpp_2m", steps=4),
    Setting(solver="heun", steps=3, churn=Churn(amount=1.0)),
    Setting(solver="euler", steps=3, guidance=1.5),
    Setting(solver="unipc", steps=5, order=3),
    Setting(solver="dpmpp_2m_sde", steps=4),
    Setting(solver="heun", steps=3, churn=Churn(amount=1.0), noise="counter"),
]


class _Flat(nn.Module):
    """A denoiser of 2x2 images that remembers its calls; its estimate depends on the label."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.img_channels, self.img_resolution, self.label_dim = 1, 2, classes
        self.calls: list[tuple[int, float, list[int] | None]] = []
        self.eval()

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        labels = None if class_labels is None else class_labels.argmax(1).tolist()
        self.calls.append((x.shape[0], float(sigma), labels))
        offset = torch.zeros(len(x)) if labels is None else 1.0 + torch.tensor(labels)
        return (0.1 * x + offset[:, None, None, None]).float()


def _all(batches: Sequence[Batch]) -> Tensor:
    return torch.cat([batch.images for batch in batches])


@pytest.mark.parametrize("setting", _SETTINGS)
def test_images_do_not_depend_on_split_order_or_company(
    tiny_network: EDMPrecond, setting: Setting
) -> None:
    seeds = range(1000, 1020)
    whole = _all(list(sample(tiny_network, setting, seeds, microbatch=5)))
    chunks = [seeds[10:], seeds[:10]]
    parts = [_all(list(sample(tiny_network, setting, part, microbatch=5))) for part in chunks]
    assert torch.equal(torch.cat([parts[1], parts[0]]), whole)
    # Fewer seeds than a microbatch, and other neighbours at other places.
    odd = _all(list(sample(tiny_network, setting, [1013, 1002, 1007], microbatch=5)))
    assert torch.equal(odd, whole[[13, 2, 7]])


@pytest.mark.parametrize("setting", _SETTINGS)
@pytest.mark.parametrize("microbatch", [1, 3, 20])
def test_other_microbatches_agree_to_1e_4(
    tiny_network: EDMPrecond, setting: Setting, microbatch: int
) -> None:
    seeds = range(1000, 1020)
    with torch.inference_mode():
        whole = sample_float(tiny_network, setting, seeds)
        parts = [
            sample_float(tiny_network, setting, seeds[i : i + microbatch])
            for i in range(0, len(seeds), microbatch)
        ]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-4)


def test_batches_are_consecutive_and_the_last_is_shorter(tiny_network: EDMPrecond) -> None:
    batches = list(sample(tiny_network, Setting(steps=2), range(7, 14), microbatch=3))
    assert [batch.seeds for batch in batches] == [(7, 8, 9), (10, 11, 12), (13,)]
    for batch in batches:
        count = len(batch.seeds)
        assert batch.images.shape == (count, 1, 8, 8)
        assert batch.images.dtype == torch.uint8
        assert batch.labels is not None
        assert batch.labels.shape == batch.finite.shape == (count,)
        assert batch.labels.dtype == torch.int64
        assert batch.finite.all()
        assert not batch.images.is_inference()
    assert list(sample(tiny_network, Setting(), [], microbatch=3)) == []


@pytest.mark.parametrize(
    ("changes", "nfe"),
    [
        ({"solver": "heun", "steps": 9}, 17),
        ({"solver": "dpmpp_2m", "steps": 6}, 6),
        ({"solver": "euler", "steps": 5}, 5),
        ({"solver": "heun", "steps": 9, "guidance": 2.0}, 34),
        ({"solver": "dpmpp_2m", "steps": 6, "guidance": 0.5}, 12),
        ({"solver": "unipc", "steps": 6, "order": 3}, 6),
        ({"solver": "dpmpp_2m_sde", "steps": 6}, 6),
        ({"solver": "heun", "steps": 4, "final_zero": False}, 8),
        ({"solver": "unipc", "steps": 4, "final_zero": False}, 4),
        ({"sigmas": (80.0, 5.0, 0.1), "steps": 3}, 3),
        # Guided at 5 and 1 of 80, 5, 1, 0.2: above the lower bound, up to the upper one.
        (
            {
                "steps": 4,
                "sigmas": (80.0, 5.0, 1.0, 0.2),
                "guidance": 2.0,
                "guidance_low": 0.2,
                "guidance_high": 5.0,
            },
            6,
        ),
        (
            {
                "solver": "heun",
                "steps": 4,
                "sigmas": (80.0, 5.0, 1.0, 0.2),
                "guidance": 2.0,
                "guidance_low": 0.2,
                "guidance_high": 5.0,
            },
            11,
        ),
        # Churn raises 5 above the interval, and 0.2 into it.
        (
            {
                "solver": "euler",
                "steps": 4,
                "sigmas": (80.0, 5.0, 1.0, 0.2),
                "churn": Churn(amount=1.0),
                "guidance": 2.0,
                "guidance_low": 0.2,
                "guidance_high": 5.0,
            },
            6,
        ),
    ],
)
def test_evaluations_are_counted(changes: dict[str, Any], nfe: int) -> None:
    network = _Flat()
    setting = Setting(**changes)
    batches = list(sample(network, setting, range(7), microbatch=5))
    assert [batch.nfe for batch in batches] == [nfe, nfe]
    assert evaluations(setting) == nfe
    # The network always sees a full microbatch.
    assert {images for images, _, _ in network.calls} == {5}
    assert len(network.calls) == 2 * nfe


def test_counted_counts_images() -> None:
    counted = Counted(_Flat())
    x = torch.zeros(4, 1, 2, 2, dtype=torch.float64)
    assert counted(x, torch.tensor(1.0), None).dtype == torch.float64
    counted(x[:3], torch.tensor(1.0), None)
    assert counted.images == 7


def test_guidance_and_epsilon_scale_are_their_formulas() -> None:
    # One step: the image is the (guided, rescaled) estimate at sigma_max.
    setting = Setting(solver="euler", steps=1, guidance=2.5, epsilon_scale=1.1, labels=2)
    network = _Flat()
    made = sample_float(network, setting, [4, 5])
    noise = ImageStreams([4, 5]).randn((1, 2, 2)).double()
    x = noise * 80
    conditional, plain = (0.1 * x + 3.0).float().double(), (0.1 * x).float().double()
    guided = plain + 2.5 * (conditional - plain)
    epsilon = (x - guided) / 80 / 1.1
    assert torch.allclose(made, x - 80 * epsilon, rtol=1e-6)
    assert [labels for _, _, labels in network.calls] == [[2, 2], None]


def test_guidance_acts_in_its_interval_alone() -> None:
    setting = Setting(
        steps=3,
        sigmas=(80.0, 5.0, 0.2),
        guidance=3.0,
        guidance_low=0.2,
        guidance_high=5.0,
        labels=1,
    )
    network = _Flat()
    made = sample_float(network, setting, [4, 5])
    called = [(sigma, labels) for _, sigma, labels in network.calls]
    assert called == [(80.0, [1, 1]), (5.0, [1, 1]), (5.0, None), (0.2, [1, 1])]

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        plain, offset = 0.1 * x, 2.0
        return (plain + (3 * offset if sigma == 5 else offset)).float().double()

    noise = ImageStreams([4, 5]).randn((1, 2, 2)).double()
    grid = torch.tensor([80.0, 5.0, 0.2, 0.0], dtype=torch.float64)
    assert torch.allclose(made, solve("dpmpp_2m", denoise, noise * 80, grid), atol=1e-5)


def test_noise_of_the_sde_depends_on_seed_and_step_alone() -> None:
    setting = Setting(solver="dpmpp_2m_sde", steps=4)
    whole = sample_float(_Flat(), setting, [1, 2, 3, 4])
    assert torch.equal(sample_float(_Flat(), setting, [3, 9, 1])[[2, 0]], whole[[0, 2]])
    assert not torch.equal(whole, sample_float(_Flat(), Setting(solver="dpmpp_2m"), [1, 2, 3, 4]))


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "dpmpp_2m_sde"])
def test_history_restarts_at_the_edges_of_windows(tiny_network: EDMPrecond, solver: str) -> None:
    keep = Setting(solver=solver, steps=6)
    restart = Setting(solver=solver, steps=6, history="restart")
    levels = sigmas(keep)
    between = math.sqrt(levels[2] * levels[3])
    window = Schedule([Term("4x4_block0", 0.5, between, math.inf)])
    below = Schedule([Term("4x4_block0", 0.5, 0.0, between), Term("4x4_block1", 0.7)])
    everywhere = Schedule.uniform({"4x4_block0": 0.5})

    def made(setting: Setting, schedule: Schedule) -> Tensor:
        with scaled(tiny_network, schedule):
            return sample_float(tiny_network, setting, [1, 2])

    def by_hand(schedule: Schedule, restarts: set[int]) -> Tensor:
        streams = ImageStreams([1, 2])
        noise, rows = start(tiny_network, keep, streams)
        grid = torch.tensor(levels, dtype=torch.float64)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            estimate: Tensor = tiny_network(x, sigma, rows)
            return estimate.double()

        with scaled(tiny_network, schedule):
            return solve(
                solver,
                denoise,
                noise.double() * levels[0],
                grid,
                randn_like=streams.randn_like,
                restarts=restarts,
            )

    with torch.no_grad():
        for schedule in (window, below):
            assert torch.equal(made(restart, schedule), by_hand(schedule, {3}))
            assert torch.equal(made(keep, schedule), by_hand(schedule, set()))
            assert not torch.equal(made(keep, schedule), made(restart, schedule))
        # Without an edge there is nothing to forget.
        assert torch.equal(made(keep, everywhere), made(restart, everywhere))
        assert torch.equal(made(keep, Schedule()), made(restart, Schedule()))


def test_draws_are_latent_then_label_then_churn() -> None:
    churn = Churn(amount=2.0)
    setting = Setting(solver="euler", steps=2, churn=churn)
    network = _Flat()
    made = sample_float(network, setting, [21])
    generator = torch.Generator().manual_seed(21)
    x = torch.randn([1, 2, 2], generator=generator).double() * 80
    label = int(torch.randint(3, size=[], generator=generator))
    levels = sigmas(setting)
    for i in range(2):
        t, t_next = levels[i], levels[i + 1]
        noise = torch.randn([1, 2, 2], dtype=torch.float64, generator=generator)
        t_hat = t * (1 + min(churn.amount / 2, math.sqrt(2) - 1))
        x = x + math.sqrt(t_hat**2 - t**2) * noise
        estimate = 0.1 * x + 1 + label
        x = x + (t_next - t_hat) * (x - estimate) / t_hat
    assert torch.allclose(made[0], x, rtol=1e-5, atol=1e-5)
    assert network.calls[0][2] == [label]


def test_label_rules() -> None:
    streams = range(40)
    seen = {}
    for rule in ("random", 1, None):
        network = _Flat()
        (batch,) = sample(network, Setting(steps=1, labels=rule), streams, microbatch=40)
        seen[rule] = batch.labels, network.calls[0][2]
    labels, rows = seen["random"]
    assert labels is not None
    assert labels.tolist() == rows
    assert set(labels.tolist()) == {0, 1, 2}
    assert seen[1][1] == [1] * 40
    assert seen[None] == (None, None)


def test_churn_does_not_depend_on_the_label_rule() -> None:
    def made(labels: str | int | None) -> Tensor:
        setting = Setting(solver="heun", steps=3, churn=Churn(amount=2), labels=labels)
        network = _Flat()
        network.forward = lambda x, sigma, class_labels: 0.1 * x  # type: ignore[method-assign]
        return sample_float(network, setting, [1, 2])

    assert torch.equal(made("random"), made(None))
    assert torch.equal(made("random"), made(2))


def test_start_gives_noise_and_one_hot_rows(tiny_network: EDMPrecond, device: str) -> None:
    noise, rows = start(tiny_network, Setting(), ImageStreams([3, 4], device))
    assert noise.shape == (2, 1, 8, 8)
    assert rows is not None
    assert rows.shape == (2, 3)
    assert torch.equal(rows.sum(1), torch.ones(2, device=device))


def test_unconditional_networks_have_no_labels(tiny_config: dict[str, Any]) -> None:
    network = build({**tiny_config, "label_dim": 0}).eval()
    (batch,) = sample(network, Setting(steps=1), [1, 2], microbatch=2)
    assert batch.labels is None
    for setting in (Setting(labels=0), Setting(guidance=2.0)):
        with pytest.raises(SpecError) as caught:
            sample(network, setting, [1])
        assert caught.value.hint


def test_bad_requests_are_refused_before_anything_is_made(tiny_network: EDMPrecond) -> None:
    with pytest.raises(SpecError, match="from 0 to 2"):
        sample(tiny_network, Setting(labels=3), [1])
    with pytest.raises(SpecError, match="microbatch"):
        sample(tiny_network, Setting(), [1], microbatch=0)
    with pytest.raises(NetworkError, match="img_channels"):
        sample(tiny_network.model.enc, Setting(), [1])
    tiny_network.train()
    with pytest.raises(NetworkError, match="training mode"):
        sample(tiny_network, Setting(), [1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_that_the_device_lacks_is_refused(dtype: torch.dtype) -> None:
    class Lacking(_Flat):
        """A network with an operation that torch's CPU has in single precision alone."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(2, dtype=dtype))

        def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
            torch.linalg.qr(self.weight)
            return super().forward(x, sigma, class_labels)

    batches = sample(Lacking(), Setting(steps=2), [1, 2])
    with pytest.raises(NetworkError, match="weights of a dtype that cpu computes in") as caught:
        next(batches)
    assert str(dtype).removeprefix("torch.") in str(caught.value)
    assert "network.float()" in (caught.value.hint or "")
    (batch,) = sample(Lacking().float(), Setting(steps=2), [1, 2])
    assert batch.finite.all()


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), NotImplementedError("later")])
def test_other_errors_of_a_network_pass(error: RuntimeError) -> None:
    class Failing(_Flat):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(2, dtype=dtype))

        def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
            raise error

    # Of what half precision is not to blame for, and of single precision.
    half = not isinstance(error, NotImplementedError)
    network = Failing(torch.float16 if half else torch.float32)
    with pytest.raises(type(error), match=str(error)) as caught:
        next(sample(network, Setting(steps=2), [1]))
    assert not isinstance(caught.value, NetworkError)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_diverged_images_are_marked_and_the_others_kept(bad: float) -> None:
    class Diverging(_Flat):
        def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
            made = super().forward(x, sigma, class_labels)
            made[1, 0, 0, 1] = bad
            return made

    (good,) = sample(_Flat(), Setting(steps=2), [1, 2, 3], microbatch=3)
    (batch,) = sample(Diverging(), Setting(steps=2), [1, 2, 3], microbatch=3)
    assert batch.finite.tolist() == [True, False, True]
    assert torch.equal(batch.images[[0, 2]], good.images[[0, 2]])
    assert batch.images[1].max() == 0


def test_bytes_are_edms() -> None:
    x = torch.tensor([-2.0, -1.0, -0.996, -0.5, 0.0, 0.5, 0.9953, 1.0, 7.0]).double()
    assert to_uint8(x).tolist() == [0, 0, 1, 64, 128, 191, 254, 255, 255]
    # Each byte goes to -1..1 and back.
    every = torch.arange(256, dtype=torch.float64)
    assert torch.equal(to_uint8(every / 127.5 - 1).double(), every)


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m"])
def test_windows_switch_at_the_noise_level_of_each_evaluation(
    tiny_network: EDMPrecond, solver: str
) -> None:
    setting = Setting(solver=solver, steps=4)
    levels = sigmas(setting)
    # From grid point 2 on, inclusive: Heun's second evaluation of step 1 is at point 2 already.
    schedule = Schedule([Term("4x4_block0", 0.5, levels[2], levels[1])])
    seen: list[tuple[float, bool]] = []
    sigma = [0.0]
    block = tiny_network.model.dec["4x4_block0"]

    def read_level(module: nn.Module, args: tuple[Any, ...]) -> None:
        sigma[0] = float(args[1])

    def read_input(module: nn.Module, args: tuple[Any, ...], before: list[Tensor]) -> None:
        before.append(args[0].clone())

    before: list[Tensor] = []
    after: list[Tensor] = []
    tiny_network.register_forward_pre_hook(read_level)
    block.register_forward_pre_hook(lambda m, a: read_input(m, a, before))
    with scaled(tiny_network, schedule):
        block.register_forward_pre_hook(lambda m, a: read_input(m, a, after))
        block.register_forward_pre_hook(
            lambda m, a: seen.append((sigma[0], not torch.equal(before[-1], after[-1])))
        )
        list(sample(tiny_network, setting, [1, 2], microbatch=2))
    assert [(level, level == levels[2]) for level, _ in seen] == seen
    expected = [levels[0], levels[1], levels[2], levels[3]]
    if solver == "heun":
        expected = [levels[i] for i in (0, 1, 1, 2, 2, 3, 3)]
    assert [level for level, _ in seen] == expected


def test_scaled_samples_equal_those_of_folded_weights(tiny_network: EDMPrecond) -> None:
    # An unmixed block sees its skip's scale in the shortcut alone: fold it in there.
    setting = Setting(steps=4)
    with scaled(tiny_network, Schedule.uniform({"8x8_block0": 0.6})):
        hooked = sample_float(tiny_network, setting, range(4))
    block: Any = tiny_network.model.dec["8x8_block0"]
    with torch.no_grad():
        block.skip.weight[:, -8:] *= 0.6
    folded = sample_float(tiny_network, setting, range(4))
    assert torch.allclose(hooked, folded, atol=2e-3)
    with torch.no_grad():
        block.skip.weight[:, -8:] /= 0.6
    assert not torch.allclose(hooked, sample_float(tiny_network, setting, range(4)), atol=2e-2)


def test_images_are_differentiable_in_the_scales(tiny_network: EDMPrecond, device: str) -> None:
    setting = Setting(steps=3, sigma_max=5.0)
    scale = torch.tensor(0.9, device=device, requires_grad=True)
    with scaled(tiny_network, {"8x8_block1": scale}):
        sample_float(tiny_network, setting, [1, 2]).square().mean().backward()
    assert scale.grad is not None

    def value(number: float) -> float:
        with scaled(tiny_network, Schedule.uniform({"8x8_block1": number})):
            return float(sample_float(tiny_network, setting, [1, 2]).square().mean())

    step = 0.01
    slope = (value(0.9 + step) - value(0.9 - step)) / (2 * step)
    assert float(scale.grad) == pytest.approx(slope, rel=0.02)


def test_noise_is_where_the_setting_says() -> None:
    setting = Setting(solver="euler", steps=3, churn=Churn(amount=2.0), noise="counter")
    made = sample_float(_Flat(), setting, [21, 22])
    streams = CounterStreams([21, 22])
    x = streams.randn((1, 2, 2)).double() * 80
    label = streams.randint(3)
    grid = sigmas(setting)
    for t, t_next in pairwise(grid):
        t_hat = t + min(2.0 / 3, math.sqrt(2) - 1) * t
        x = x + math.sqrt(t_hat**2 - t**2) * streams.randn_like(x)
        clean = (0.1 * x + 1 + label[:, None, None, None]).float().double()
        x = x + (t_next - t_hat) * (x - clean) / t_hat
    assert torch.allclose(made, x, rtol=1e-6, atol=1e-6)
    usual = sample_float(_Flat(), replace(setting, noise="edm"), [21, 22])
    assert not torch.allclose(made, usual, atol=0.1)


def test_churn_noise_of_counters_does_not_depend_on_classes() -> None:
    setting = Setting(solver="euler", steps=2, churn=Churn(amount=2.0), noise="counter")
    # Both estimate 0.1 x: with no label, and without classes.
    made = sample_float(_Flat(), replace(setting, labels=None), [3, 4])
    assert torch.equal(sample_float(_Flat(classes=0), setting, [3, 4]), made)


def test_streams_of_another_noise_are_refused() -> None:
    for noise, streams in (("edm", CounterStreams([1])), ("counter", ImageStreams([1]))):
        with pytest.raises(SpecError, match=f"noise {noise}, as the setting has it"):
            sample_float(_Flat(), Setting(noise=noise), streams)


def test_sampling_leaves_no_state(tiny_network: EDMPrecond) -> None:
    before = torch.get_rng_state()
    list(sample(tiny_network, Setting(steps=2), [1, 2], microbatch=2))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.is_inference_mode_enabled()
    batches = sample(tiny_network, Setting(steps=2), range(4), microbatch=2)
    next(batches)
    # The generator waits between batches: its inference mode must not reach the caller.
    assert not torch.is_inference_mode_enabled()
