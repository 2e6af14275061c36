"""The discrepancy against brute force and simulation, the inversion against a known flow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.mmd_inversion import centred_kernel, discrepancy, inverted
from skiptune.sampling.grids import edm_grid
from skiptune.sampling.solvers import solve

Array = NDArray[np.float64]


class _Gaussian(nn.Module):
    """The exact denoiser of N(mean, 1/4 I), whose flow is known."""

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        mean = torch.zeros(len(x)) if class_labels is None else class_labels[:, 0]
        centre = mean[:, None, None, None].double()
        return centre + 0.25 / (0.25 + sigma**2) * (x - centre)


def test_the_closed_form_is_the_average_over_normal_vectors() -> None:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((4, 3)) * 1.5
    z = generator.standard_normal((200_000, 3))
    other = generator.standard_normal((200_000, 3))

    def k(x: Array, y: Array) -> Array:
        found: Array = np.exp(-((x - y) ** 2).sum(axis=1) / 6)
        return found

    found = centred_kernel(rows)
    for i in range(4):
        for j in range(4):
            expected = float(k(rows[i : i + 1], rows[j : j + 1])[0])
            expected += float((k(z, other) - k(rows[i : i + 1], z) - k(rows[j : j + 1], z)).mean())
            assert found[i, j] == pytest.approx(expected, abs=4e-3)


def test_the_discrepancy_is_unbiased_and_its_error_fair() -> None:
    generator = np.random.default_rng(1)
    means, errors, nulls, null_errors = [], [], [], []
    for _ in range(800):
        shifted = generator.standard_normal((60, 5)) + 0.7
        found = discrepancy(centred_kernel(shifted))
        null = discrepancy(centred_kernel(shifted - 0.7))
        means.append(found.value)
        errors.append(found.standard_error)
        nulls.append(null.value)
        null_errors.append(null.standard_error)
    # E h for x, y ~ N(m, I): twice (w / (w + 2))^(d/2) (1 - exp(-|m|^2 / (2 (w + 2)))).
    truth = 2 * (5 / 7) ** 2.5 * (1 - np.exp(-5 * 0.49 / 14))
    assert abs(np.mean(means) - truth) < 4 * np.std(means) / np.sqrt(800)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
    assert abs(np.mean(nulls)) < 4 * np.std(nulls) / np.sqrt(800)
    assert np.std(nulls) < np.mean(null_errors) < 1.6 * np.std(nulls)


@pytest.mark.parametrize("labels", [None, torch.tensor([[0.3], [-0.5]])])
def test_an_exact_denoiser_leads_back_along_the_known_flow(labels: Tensor | None) -> None:
    x = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    found = inverted(_Gaussian(), x, labels, 200)
    mean = torch.zeros(2) if labels is None else labels[:, 0]
    centre = mean[:, None, None, None].double()
    # Along the flow, distances to the mean grow as the standard deviation of the noised data.
    growth = ((0.25 + 80.0**2) / (0.25 + 0.002**2)) ** 0.5
    torch.testing.assert_close(found * 80, centre + growth * (x - centre), rtol=2e-3, atol=2e-2)
    # Forwards from there ends where it began.
    back = solve("heun", lambda y, sigma: _Gaussian()(y, sigma, labels), found * 80, edm_grid(200))
    torch.testing.assert_close(back, x, rtol=0, atol=0.02)
