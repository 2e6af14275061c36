"""How many workers the nodes of a Ray cluster hold; test_ray_cluster.py speaks to a real one."""

from __future__ import annotations

import pytest

from skiptune.launch.ray_driver import capacity


@pytest.mark.parametrize(
    ("nodes", "need", "expected"),
    [
        ([{"CPU": 8}], {"CPU": 1, "GPU": 0}, 8),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 1, "GPU": 4}], {"CPU": 1, "GPU": 1}, 3),
        ([{"CPU": 8, "GPU": 1}], {"CPU": 1, "GPU": 0.1}, 8),
        ([{"CPU": 80, "GPU": 1}], {"CPU": 1, "GPU": 0.1}, 10),
        ([{"CPU": 3}, {"CPU": 3}], {"CPU": 4}, 0),
        ([{"CPU": 8}], {"CPU": 1, "fast": 1}, 0),
        ([], {"CPU": 1}, 0),
    ],
)
def test_workers_are_counted_that_whole_nodes_hold(
    nodes: list[dict[str, float]], need: dict[str, float], expected: int
) -> None:
    assert capacity(nodes, need) == expected
