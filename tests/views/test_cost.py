from __future__ import annotations

import re

import torch

from skiptune.search.plan import Cost
from skiptune.views.cost import cost_text, device_text

PARTS = {"search": Cost(1000, 19_000), "confirm": Cost(500, 9_500)}


def test_hours_are_those_of_both_parts() -> None:
    text = cost_text(PARTS, {"search": 3600.0, "confirm": 5400.0}, device="cuda:0 (X)")
    assert text == (
        "search 1,000 images, 19,000 network evaluations, 1 h 00 min; "
        "confirm 500 images, 9,500 network evaluations, 1 h 30 min; "
        "together about 2.5 device hours on one cuda:0 (X)"
    )


def test_many_hours_are_a_plain_number() -> None:
    text = cost_text(PARTS, {"search": 3.6e7, "confirm": 3.6e6}, device="cpu")
    assert "together about 11,000 device hours on one cpu" in text


def test_what_was_not_measured_is_said() -> None:
    text = cost_text(PARTS, None, device="cpu")
    assert text.endswith("evaluations; device hours unknown until the network is here")
    seconds = {"search": 1.0, "confirm": 1.0}
    assert "device hours without the features on one cpu" in cost_text(
        PARTS, seconds, device="cpu", left_out="without the features"
    )


def test_a_device_is_named(device: str) -> None:
    text = device_text(device)
    if device == "cpu":
        assert re.fullmatch(rf"cpu \({torch.get_num_threads()} threads?\)", text)
    else:
        assert text == f"{device} ({torch.cuda.get_device_name(device)})"
