"""Random streams: an image's numbers depend on its seed and on nothing else."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skiptune.errors import SpecError
from skiptune.sampling import noise
from skiptune.sampling.noise import CounterStreams, ImageStreams, image_streams, philox

both = pytest.mark.parametrize("kind", [ImageStreams, CounterStreams])
Kind = type[ImageStreams] | type[CounterStreams]

WORD = 2**32
words = st.integers(0, WORD - 1)


@both
def test_streams_do_not_depend_on_each_other(kind: Kind) -> None:
    together = kind([3, 4, 5])
    numbers = together.randn((2, 3)), together.randint(10), together.randn((2, 3))
    for place, seed in enumerate([3, 4, 5]):
        alone = kind([seed])
        assert torch.equal(alone.randn((2, 3))[0], numbers[0][place])
        assert torch.equal(alone.randint(10)[0], numbers[1][place])
        assert torch.equal(alone.randn((2, 3))[0], numbers[2][place])


def test_numbers_are_those_of_a_generator_per_seed() -> None:
    # EDM: torch.Generator.manual_seed(seed % 2^32), randn of one image, randint of one label.
    generator = torch.Generator().manual_seed(7)
    latent = torch.randn([3, 8, 8], generator=generator)
    label = torch.randint(1000, size=[], generator=generator)
    churn = torch.randn([3, 8, 8], generator=generator, dtype=torch.float64)
    streams = ImageStreams([7])
    assert torch.equal(streams.randn((3, 8, 8))[0], latent)
    assert streams.randint(1000)[0] == label
    assert torch.equal(streams.randn_like(torch.zeros(1, 3, 8, 8).double())[0], churn)


@both
def test_each_image_may_draw_from_a_range_of_its_own(kind: Kind) -> None:
    highs = [1, 7, 1000, 7]
    drawn = kind([3, 4, 5, 6]).randint(highs)
    assert drawn.dtype == torch.int64
    for place, (seed, high) in enumerate(zip([3, 4, 5, 6], highs, strict=True)):
        assert drawn[place] == kind([seed]).randint(high)[0]
    # What is drawn next does not depend on the range.
    one, other = kind([3]), kind([3])
    one.randint(3), other.randint([9000])
    assert torch.equal(one.randn((4,)), other.randn((4,)))


def test_seeds_wrap_at_two_to_the_32() -> None:
    assert torch.equal(ImageStreams([2**32 + 5]).randn((4,)), ImageStreams([5]).randn((4,)))


@both
def test_drawing_leaves_the_global_generator_alone(kind: Kind) -> None:
    before = torch.get_rng_state()
    streams = kind([1, 2])
    streams.randn((4,))
    streams.randint(3)
    assert torch.equal(torch.get_rng_state(), before)


@both
def test_draws_are_standard_normal_and_uniform(kind: Kind) -> None:
    streams = kind(range(2000))
    normal = streams.randn((20,))
    assert abs(float(normal.mean())) < 4 / 200
    assert abs(float(normal.std()) - 1) < 4 / 280
    counts = torch.bincount(streams.randint(5), minlength=5)
    assert counts.numel() == 5
    # Chi-square with 4 degrees of freedom exceeds 23.5 once in 10,000; the seeds are fixed.
    assert float(((counts - 400) ** 2 / 400).sum()) < 23.5


@both
def test_churn_has_the_dtype_of_the_state(kind: Kind, device: str) -> None:
    streams = kind([1, 2], device)
    assert streams.randn((3,)).dtype == torch.float32
    drawn = streams.randn_like(torch.zeros(2, 3, dtype=torch.float64, device=device))
    assert drawn.dtype == torch.float64
    assert drawn.device.type == torch.device(device).type


def test_a_setting_names_its_streams() -> None:
    assert isinstance(image_streams("edm", [1]), ImageStreams)
    assert isinstance(image_streams("counter", [1]), CounterStreams)
    with pytest.raises(SpecError, match="one of edm, counter"):
        image_streams("philox", [1])


def _tensors(hexadecimal: str) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([[int(word, 16)]]) for word in hexadecimal.split())


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        (
            "00000000 00000000 00000000 00000000",
            "00000000 00000000",
            "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_the_generator_gives_its_authors_answers(counter: str, key: str, answer: str) -> None:
    # Random123, tests/kat_vectors, lines philox4x32 10.
    one, two = _tensors(key)
    found = philox(_tensors(counter), (one, two))
    assert " ".join(f"{int(word):08x}" for word in found) == answer


def _philox(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds in whole numbers without bound: Salmon et al. 2011, section 3.3."""
    for _ in range(10):
        one, three = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [
            three // WORD ^ counter[1] ^ key[0],
            three % WORD,
            one // WORD ^ counter[3] ^ key[1],
            one % WORD,
        ]
        key = [(key[0] + 0x9E3779B9) % WORD, (key[1] + 0xBB67AE85) % WORD]
    return counter


@settings(max_examples=50)
@given(
    counter=st.lists(words, min_size=4, max_size=4), key=st.lists(words, min_size=2, max_size=2)
)
def test_the_generator_is_exact(counter: list[int], key: list[int]) -> None:
    one, two = (torch.tensor([word]) for word in key)
    found = philox(tuple(torch.tensor([word]) for word in counter), (one, two))
    assert [int(word) for word in found] == _philox(counter, key)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**64 - 1), element=st.integers(0, 50), draw=st.integers(0, 3))
def test_a_number_is_a_function_of_seed_draw_and_element(
    seed: int, element: int, draw: int
) -> None:
    streams = CounterStreams([seed])
    for _ in range(draw):
        streams.randn((7,))
        streams.randint(3)
    found = float(streams.randn((51,), torch.float64)[0, element])
    whole = int(streams.randint(1000))
    key = [seed % WORD, seed // WORD]
    four = _philox([element // 4, draw, 0, 0], key)
    a, b = four[element % 4 // 2 * 2 :][:2]
    radius = math.sqrt(-2 * math.log((a + 0.5) / WORD))
    angle = 2 * math.pi * (b + 0.5) / WORD
    expected = radius * (math.sin(angle) if element % 2 else math.cos(angle))
    assert found == pytest.approx(expected, rel=1e-7, abs=1e-9)
    assert found == torch.tensor(found, dtype=torch.float32).double()
    # The label of a draw does not move the noise of the next, nor the other way round.
    assert whole == _philox([0, draw, 1, 0], key)[0] * 1000 // WORD


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(12)), split=st.integers(1, 11), size=st.integers(1, 40))
def test_neither_order_nor_company_nor_place_matters(
    order: list[int], split: int, size: int
) -> None:
    def drawn(seeds: list[int]) -> list[torch.Tensor]:
        streams = CounterStreams(seeds)
        return [streams.randn((size,)), streams.randint(9), streams.randn((3, size)).flatten(1)]

    whole = drawn(list(range(12)))
    shuffled = drawn(order)
    parts = [drawn(order[:split]), drawn(order[split:])]
    for number, expected in enumerate(whole):
        assert torch.equal(shuffled[number], expected[torch.tensor(order)])
        joined = torch.cat([part[number] for part in parts])
        assert torch.equal(joined, shuffled[number])


@pytest.mark.parametrize("tile", [1, 3, 8, 1000])
def test_parts_of_the_work_do_not_matter(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = CounterStreams([5, 6, 7]).randn((3, 5, 2), torch.float64)
    monkeypatch.setattr(noise, "_TILE", tile)
    assert torch.equal(CounterStreams([5, 6, 7]).randn((3, 5, 2), torch.float64), whole)


def test_seeds_of_counters_wrap_at_two_to_the_64() -> None:
    one, far, round_ = (CounterStreams([seed]).randn((4,)) for seed in (5, 5 + WORD, 5 + 2**64))
    assert torch.equal(one, round_)
    assert not torch.equal(one, far)


def test_counter_draws_are_normal_and_independent() -> None:
    streams = CounterStreams(range(1000))
    first, second = (streams.randn((100,), torch.float64) for _ in range(2))
    numbers = first.flatten()
    count = len(numbers)
    # Moments of a normal distribution and four standard errors: sqrt((E z^2k - (E z^k)^2) / N).
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        error = 4 * math.sqrt(variance / count)
        assert float((numbers**power).mean()) == pytest.approx(moment, abs=error)
    # Kolmogorov and Smirnov: sqrt(N) times the distance exceeds 1.95 once in 1000.
    places = torch.arange(1, count + 1) / count
    truth = torch.tensor([NormalDist().cdf(z) for z in numbers.sort().values.tolist()])
    assert float((places - truth).abs().max()) * math.sqrt(count) < 1.95
    # Neighbouring elements (pairs share a radius), seeds and draws.
    for one, two in (
        (first[:, :-1], first[:, 1:]),
        (first[:-1], first[1:]),
        (first, second),
        (first[:, :-1].square(), first[:, 1:].square()),
    ):
        pair = torch.stack([one.flatten(), two.flatten()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 4 / math.sqrt(pair.shape[1])


def test_devices_agree(device: str) -> None:
    here, there = CounterStreams(range(50)), CounterStreams(range(50), device)
    assert torch.equal(here.randint(1000), there.randint(1000).cpu())
    one, two = here.randn((1000,)), there.randn((1000,)).cpu()
    # Whole numbers are exact; a float64 logarithm may differ in its last bit, and so may then
    # few of its float32 roundings.
    assert torch.allclose(one, two, rtol=2e-7, atol=1e-12)
    assert int((one != two).sum()) < 5
