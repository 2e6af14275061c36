"""The page of a forecast: a row per part, and what the budget can prove."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skiptune.search.forecast import Forecast, Part
from skiptune.search.paired_errors import PairedError
from skiptune.search.plan import Cost
from skiptune.views.forecast import forecast_hints, forecast_view
from tests.views.printed import printed

# Standard error of a gain on 1,600 images: 44 / 40 / 10 = 11 % of 10.
ERROR = PairedError(44.0, 22.0, 88.0, 5, 10.0, "study a")
FOUND = Forecast(
    study="fashion",
    parts=(
        Part("baseline", 1, Cost(1500, 9000), 15.0),
        Part("rung 500", 1600, Cost(800_000, 4_800_000), 8000.0),
        Part("controls", None, Cost(10_500, 62_000), 105.0),
    ),
    images_per_second=100.0,
    workers=4,
    confirm=1,
    level=0.025,
    min_gain=0.01,
    images=1600,
    error=ERROR,
    pilot_images=500,
)


def page(found: Forecast, *, width: int = 80) -> str:
    return printed(*forecast_view(found, device="cuda (H100)"), width=width)


def test_every_part_has_a_row_and_the_sum_one() -> None:
    rows = {line.split("  ")[0]: line.split() for line in page(FOUND).splitlines()}
    assert rows["rung 500"][2:] == ["1,600", "800,000", "4,800,000", "2", "h", "13", "min"]
    assert rows["controls"][1:] == ["10,500", "62,000", "1", "min", "45", "s"]
    assert rows["together"][1:] == ["812,000", "4,871,000", "2", "h", "15", "min"]
    text = " ".join(page(FOUND).split())
    assert "(2.26 device hours) on one cuda (H100), at 100 images/s" in text
    assert "33 min 50 s with 4 workers" in text


def test_more_images_of_the_same_prompts_promise_nothing() -> None:
    counts = {"search": 80, "confirm-1/A": 18, "confirm-1/B": 20}
    # Measured on 1,600 images of 80 prompts: 44 / 40 = 1.1; on 20 prompts at least twice as much.
    error = replace(ERROR, error=1.1).on_prompts(80, 20)
    assert error.at(1600) == pytest.approx(0.22)
    assert error.at(100) == pytest.approx(0.44)
    found = replace(FOUND, error=error, prompts=counts)
    assert found.smallest_gain_at(1600) == found.smallest_gain_at(160_000)
    assert found.images_for(0.1) is None
    assert FOUND.images_for(0.1) is not None
    text = " ".join(page(found).split())
    assert "prompts: search draws from 80, confirm-1/A draws from 18" in text
    assert (
        "No error below 22 % is counted on: how much more images of the same prompts help" in text
    )
    assert found.to_json()["prompts"] == counts
    assert "prompts" not in FOUND.to_json()


def test_images_with_a_prompt_each_promise_what_images_do() -> None:
    # 1,600 images of 20,000 prompts saw no more than 1,600 of them; 4,000 others are to come.
    error = replace(ERROR, error=1.1).on_prompts(20_000, 4_000)
    assert error.at(400) == ERROR.at(400)
    assert error.at(4_000) == pytest.approx(ERROR.at(4_000))
    assert error.at(160_000) == pytest.approx(ERROR.at(4_000))


def test_the_smallest_gain_is_told_with_what_it_rests_on() -> None:
    text = " ".join(page(FOUND).split())
    # (2.2414 + 1.2816) x 11 %; twice the images, a root of two less.
    assert "90 % probability: 39 % of the untouched network's 10.00" in text
    assert "standard error 11 %" in text
    assert "1,500 images 40 %, 3,250 images 27 %" in text
    assert "study a: the median of 5 schedules, whose errors differ by a factor of 4" in text
    (hint,) = forecast_hints(FOUND, source="fashion -s study=b")
    # Sure of 2 %: 1.2816 standard errors above the 1 % that count, or 3.523 above zero.
    images = (44 / 10 / (0.02 / 3.52297)) ** 2
    shown = int(hint.rpartition("=")[2])
    assert hint.startswith("to prove 2 % as surely: skiptune plan fashion -s study=b -s confirm.")
    assert images <= shown < images + 250


@pytest.mark.parametrize("stored", [0, 12_000])
def test_what_is_not_known_is_said_with_the_way_to_learn_it(stored: int) -> None:
    found = replace(FOUND, error=None, stored=stored)
    text = " ".join(page(found).split())
    assert "not known" in text
    assert ("12,000 images of this study are stored" in text) == bool(stored)
    assert list(forecast_hints(found, source="s.yaml")) == [
        "learn it from a pilot: skiptune plan s.yaml --pilot 500"
    ]


def test_a_budget_that_resolves_enough_needs_no_hint() -> None:
    sharp = replace(FOUND, error=replace(ERROR, deviation=1.0))
    assert list(forecast_hints(sharp, source="s.yaml")) == []


def test_the_page_fits_80_columns() -> None:
    for found in (FOUND, replace(FOUND, error=None, workers=1)):
        assert max(map(len, page(found).splitlines())) <= 80
