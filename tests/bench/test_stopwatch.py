import inspect

import pytest
import torch
from torch import Tensor, nn

from bench.stopwatch import watched


class Doubling(nn.Module):
    def forward(self, x: Tensor, sigma: float = 1.0) -> Tensor:
        return 2 * x * sigma


def test_a_watched_module_computes_the_same_and_is_left_as_it_was() -> None:
    module = Doubling()
    with watched(module) as watch:
        # `apply` looks for sigma in the signature.
        assert list(inspect.signature(module.forward).parameters) == ["x", "sigma"]
        assert module(torch.ones(2), sigma=3.0).tolist() == [6.0, 6.0]
        assert module(torch.ones(2)).tolist() == [2.0, 2.0]
    module(torch.ones(2))

    assert watch.calls == 2
    assert watch.wall > 0
    assert "forward" not in vars(module)


def test_a_call_that_fails_is_counted_and_passed_on() -> None:
    module = Doubling()
    with pytest.raises(TypeError), watched(module) as watch:
        module(None)
    assert watch.calls == 1
    assert "forward" not in vars(module)
