"""The last page of a tune: every number, the verdict in words, and its width."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skiptune.sampling.schedule import Schedule, Term
from skiptune.sampling.setting import Setting
from skiptune.search.result import NO_GAIN, WIN, Luck, Measured, Ranking, Result, SecondLook
from skiptune.views.result import result_view, setting_text, verdict_text
from tests.views.printed import printed

ADDRESSES = ("8x8_block0", "8x8_block1", "16x16_block0")


def measured(label: str, value: float, difference: float | None, *, nfe: float = 6) -> Measured:
    error = None if difference is None else 0.05
    return Measured(label, 2000, nfe, value, 0.07, difference, error)


RESULT = Result(
    study="fashion",
    metric="FD(fashion-cnn)-2k-corrected",
    setting=Setting(),
    confirm=1,
    alpha=0.025,
    min_gain=0.01,
    seeds=(2_100_000, 2_150_000),
    baseline=measured("baseline", 5.0, None),
    winner=measured("tuned", 4.5, -0.5),
    controls=(
        measured("solver: heun on logsnr, 3 steps", 5.5, 0.5, nfe=5),
        measured("epsilon scale: epsilon x 1.005", 4.9, -0.1),
    ),
    schedule=Schedule.uniform({"8x8_block0": 1.15, "16x16_block0": 0.85}),
    params={},
    edges=(),
    evaluations=40,
    images=46_500,
    seconds=301.0,
    verdict=WIN,
)


def page(result: Result, *, width: int = 80) -> str:
    return printed(*result_view(result, addresses=ADDRESSES), width=width)


def test_every_row_has_its_value_its_gain_its_cost_and_their_intervals() -> None:
    lines = {line.split("  ")[0].strip(): line for line in page(RESULT).splitlines() if line}
    # 1.96 standard errors: 5 +- 0.137, and 0.1 +- 0.0196 of the baseline.
    assert "5.000 [4.863, 5.137]" in lines["baseline"]
    assert lines["tuned"].split() == [
        "tuned", "4.500", "[4.363,", "4.637]", "+10.0", "[+8.0,", "+12.0]", "6", "2,000",
    ]  # fmt: skip
    assert "-10.0 [-12.0, -8.0]" in lines["heun on logsnr, 3 steps"]
    assert lines["heun on logsnr, 3 steps"].split()[-2:] == ["5", "2,000"]
    assert "+2.0 [+0.0, +4.0]" in lines["epsilon x 1.005"]
    assert "46,500 images in 5 min 01 s" in page(RESULT)


def test_all_skips_are_listed_also_those_that_stay() -> None:
    rows = [line.split() for line in page(RESULT).splitlines() if "x" in line and "block" in line]
    assert rows == [
        ["8x8_block0", "1.150", "+15.0", "%"],
        ["8x8_block1", "1", "untouched"],
        ["16x16_block0", "0.850", "-15.0", "%"],
    ]


def test_a_window_is_shown_as_the_noise_levels_at_which_it_acts() -> None:
    terms = (Term("8x8_block0", 1.5, 0.5, 20.0), Term("8x8_block1", 0.0, high=0.5))
    text = page(replace(RESULT, schedule=Schedule(terms)))
    assert "0.5 to 20" in text
    assert "dropped" in text
    assert "below 0.5" in text
    assert "everywhere" in text


def test_the_page_fits_80_columns_without_colour() -> None:
    for result in (RESULT, replace(RESULT, edges=("skip/8x8_block0",), verdict=NO_GAIN)):
        text = page(result)
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 80
        # Only paragraphs may break: each control keeps its line.
        assert any(line.startswith("heun on logsnr, 3 steps  5.5") for line in text.splitlines())


def test_a_win_says_by_how_much_at_which_level_on_what() -> None:
    # 2.2414 standard errors at level 0.025: 0.1 +- 0.0224.
    assert verdict_text(RESULT) == (
        "The tuned schedule is better: a gain of +10.0 % [+7.8, +12.2] (97.5 % interval) on "
        "2,000 images. Test at level 0.025 (confirm 1), least gain that counts 1 %."
    )


@pytest.mark.parametrize(
    ("difference", "reason"),
    [
        (-0.1, "the interval reaches zero"),
        (0.5, "the interval reaches zero"),
        (-0.13, "the gain is smaller than the least that counts"),
    ],
)
def test_no_gain_is_a_valid_answer_with_its_reason(difference: float, reason: str) -> None:
    result = replace(
        RESULT,
        winner=measured("tuned", 5 + difference, difference),
        verdict=NO_GAIN,
        min_gain=0.05,
    )
    text = verdict_text(result)
    assert text.startswith("No significant gain: ")
    assert reason in text
    assert "valid answer" in text
    assert "Tuned scales" not in page(result)


def test_a_study_whose_candidates_all_diverged_still_has_a_page() -> None:
    text = page(replace(RESULT, winner=None, schedule=Schedule.baseline(), verdict=NO_GAIN))
    assert "no candidate could be measured" in text
    assert "block0" not in text


def test_a_search_that_found_nothing_better_says_that_nothing_was_tested() -> None:
    found = replace(
        RESULT,
        winner=None,
        controls=(),
        schedule=Schedule.baseline(),
        verdict=NO_GAIN,
        tested=False,
    )
    text = " ".join(page(found).split())
    assert "no candidate was better than the baseline in the search and kept every" in text
    assert "valid answer: keep the baseline" in text
    assert "no fresh ones were spent" in text and "2,150,000" not in text
    assert "Test at level" not in text


def test_an_optimum_at_the_edge_and_a_better_control_are_said() -> None:
    text = " ".join(page(replace(RESULT, edges=("skip/8x8_block0",))).split())
    assert "touches the edge of its range at skip/8x8_block0" in text
    assert "Widen" in text
    better = measured("grid exponent: exponent 8.5", 4.0, -1.0)
    text = " ".join(page(replace(RESULT, controls=(better,))).split())
    assert "more is gained by grid exponent: exponent 8.5 (+20.0 %)" in text
    assert "Note:" not in page(RESULT)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (Setting(), "dpmpp_2m, 6 steps, edm grid"),
        (Setting(labels=None), "dpmpp_2m, 6 steps, edm grid, no labels"),
        (
            Setting(solver="heun", steps=5, guidance=1.5, labels=3),
            "heun, 5 steps, edm grid, guidance 1.5, class 3",
        ),
        (
            Setting(solver="unipc", steps=4, order=3, history="restart"),
            "unipc, 4 steps, edm grid, order 3, history restart",
        ),
        (
            Setting(guidance=2.0, guidance_low=0.5),
            "dpmpp_2m, 6 steps, edm grid, guidance 2, guidance low 0.5",
        ),
    ],
)
def test_the_setting_in_words(setting: Setting, text: str) -> None:
    assert setting_text(setting) == text


def test_verdicts_that_are_no_win_say_why() -> None:
    kept = replace(RESULT, verdict=NO_GAIN, violated=("recall >= 0.95 x baseline",))
    assert "violates recall >= 0.95 x baseline" in verdict_text(kept)
    near_zero = replace(RESULT, verdict=NO_GAIN, baseline=measured("baseline", -0.1, None))
    assert "not above zero" in verdict_text(near_zero)
    higher = replace(RESULT, better="higher")
    assert "higher is better" in page(higher)


SECOND = SecondLook(
    "FD(random-patches)-2k-corrected",
    measured("baseline", 0.4, None),
    Measured("tuned", 2000, 6, 0.36, 0.01, -0.04, 0.004),
)


def test_a_second_opinion_has_a_row_of_its_own_and_is_silent_where_it_agrees() -> None:
    text = page(replace(RESULT, second=SECOND))
    (line,) = [line for line in text.splitlines() if line.startswith("in random-patches")]
    # 0.04 of 0.4, and 1.96 x 0.004 of it.
    assert line.split()[2:] == [
        "0.360",
        "[0.340,",
        "0.380]",
        "+10.0",
        "[+8.0,",
        "+12.0]",
        "6",
        "2,000",
    ]
    assert "Warning" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_each_part_of_joint_features_has_a_row_and_no_sentence() -> None:
    worse = replace(SECOND, tuned=replace(SECOND.tuned, difference=0.1))
    text = page(replace(RESULT, parts=(SECOND, replace(worse, metric="FD(dct)-1k-corrected"))))
    rows = [line for line in text.splitlines() if line.startswith("in ")]
    assert [row.split()[1] for row in rows] == ["random-patches", "dct"]
    assert "Warning" not in text


def test_a_second_opinion_that_disagrees_is_a_sentence() -> None:
    worse = replace(SECOND, tuned=replace(SECOND.tuned, difference=0.01))
    text = " ".join(page(replace(RESULT, second=worse)).split())
    assert "Warning: in features that the search has not looked at" in text
    assert "the schedule is worse: -2.5 % [-4.5, -0.5]" in text
    assert "one in fashion-cnn alone" in text
    within = replace(SECOND, tuned=replace(SECOND.tuned, difference=0.006))
    assert "Warning" not in page(replace(RESULT, second=within))


def test_luck_and_the_order_of_rungs_are_told() -> None:
    # Seen 0.6 of 5, of which 0.1 is gone on fresh seeds.
    luck = Luck(1500, -0.6, 0.05, 0.1, 0.07)
    assert luck.part == pytest.approx(1 / 6)
    assert replace(luck, difference=0.1).part is None
    ranking = Ranking("500 images of the search", "fresh seeds", 0.8, -0.2, 0.98, 5)
    text = " ".join(page(replace(RESULT, luck=luck, rankings=(ranking,))).split())
    assert (
        "The search had seen +12.0 % [+10.0, +14.0] of this baseline's value on 1,500 images of "
        "its own" in text
    )
    assert "+2.0 ± 2.7 points were luck" in text
    assert (
        "500 images of the search rank schedules as fresh seeds by 0.80 (-0.20 to 0.98, "
        "5 schedules; Spearman)" in text
    )
