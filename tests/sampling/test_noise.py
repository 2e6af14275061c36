"""Random streams: an image's numbers depend on its seed and on nothing else."""

from __future__ import annotations

import torch

from skiptune.sampling.noise import ImageStreams


def test_streams_do_not_depend_on_each_other() -> None:
    together = ImageStreams([3, 4, 5])
    numbers = together.randn((2, 3)), together.randint(10), together.randn((2, 3))
    for place, seed in enumerate([3, 4, 5]):
        alone = ImageStreams([seed])
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


def test_seeds_wrap_at_two_to_the_32() -> None:
    assert torch.equal(ImageStreams([2**32 + 5]).randn((4,)), ImageStreams([5]).randn((4,)))


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    streams = ImageStreams([1, 2])
    streams.randn((4,))
    streams.randint(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_are_standard_normal_and_uniform() -> None:
    streams = ImageStreams(range(2000))
    normal = streams.randn((20,))
    assert abs(float(normal.mean())) < 4 / 200
    assert abs(float(normal.std()) - 1) < 4 / 280
    counts = torch.bincount(streams.randint(5), minlength=5)
    assert counts.numel() == 5
    # Chi-square with 4 degrees of freedom exceeds 23.5 once in 10,000; the seeds are fixed.
    assert float(((counts - 400) ** 2 / 400).sum()) < 23.5


def test_churn_has_the_dtype_of_the_state(device: str) -> None:
    streams = ImageStreams([1, 2], device)
    assert streams.randn((3,)).dtype == torch.float32
    drawn = streams.randn_like(torch.zeros(2, 3, dtype=torch.float64, device=device))
    assert drawn.dtype == torch.float64
    assert drawn.device.type == torch.device(device).type
