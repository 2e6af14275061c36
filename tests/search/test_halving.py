"""Sequential halving: the rounds, against the rule read literally, and what they cost."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.search.halving import Round, cost, fewest_images, rounds
from skiptune.storage.records import CHUNK

IMAGES = st.integers(1, 60).map(lambda chunks: CHUNK * chunks)


def test_rounds_by_hand() -> None:
    # 1/4 and 3/4 of what four and two candidates can be given for the same images.
    assert rounds(4, 6000, fewest=500) == (Round(2000, 2), Round(6000, 1))
    assert cost(4, rounds(4, 6000, fewest=500)) == 4 * 2000 + 2 * 4000
    # Eight, four, two: 1, 3 and 7 sevenths.
    assert rounds(8, 7000, fewest=500) == (Round(1000, 4), Round(3000, 2), Round(7000, 1))
    assert cost(8, rounds(8, 7000, fewest=500)) == 8000 + 4 * 2000 + 2 * 4000
    assert rounds(3, 2000, fewest=500) == (Round(750, 2), Round(2000, 1))
    assert rounds(2, 2000, fewest=500) == (Round(2000, 1),)


def test_a_lone_candidate_is_looked_at_once_with_few_images() -> None:
    assert rounds(1, 8000, fewest=500) == (Round(500, 1),)
    assert cost(1, rounds(1, 8000, fewest=500)) == 500


def test_where_the_first_round_needs_all_images_there_is_one_round() -> None:
    assert rounds(5, 500, fewest=500) == (Round(500, 1),)
    assert cost(5, rounds(5, 500, fewest=500)) == 5 * 500


@given(st.integers(1, 40), IMAGES, IMAGES)
def test_rounds_grow_in_images_and_fall_in_candidates(
    candidates: int, images: int, fewest: int
) -> None:
    plan = rounds(candidates, images, fewest=fewest)
    sizes = [one.images for one in plan]
    assert sizes == sorted(set(sizes))
    assert all(size % CHUNK == 0 and min(fewest, images) <= size <= images for size in sizes)
    kept = [candidates, *(one.keep for one in plan)]
    # At least half goes on from a round of its own; rounds of equal images are one.
    assert all(after == 1 or after < before for before, after in itertools.pairwise(kept))
    assert kept[-1] == 1
    if candidates > 1:
        assert sizes[-1] == images
        assert cost(candidates, plan) <= candidates * images
    # Once begun they stay what they are.
    assert rounds(candidates, images, fewest=fewest, begun=sizes[0]) == plan


@pytest.mark.parametrize("candidates", [1, 2, 3, 5])
def test_what_another_version_began_with_all_images_ends_there(candidates: int) -> None:
    assert rounds(candidates, 2000, fewest=500, begun=2000) == (Round(2000, 1),)


def test_candidates_that_join_a_lone_one_begin_with_its_images() -> None:
    assert rounds(3, 3000, fewest=500, begun=500) == (
        Round(500, 3), Round(1250, 2), Round(3000, 1),
    )  # fmt: skip


@given(st.integers(3, 30), IMAGES)
def test_every_round_costs_about_the_same(candidates: int, images: int) -> None:
    """Algorithm 1 of Karnin et al., up to whole chunks."""
    plan = rounds(candidates, 40 * images, fewest=CHUNK)
    kept = [candidates, *(one.keep for one in plan)]
    sizes = [0, *(one.images for one in plan)]
    spent = [
        n * (after - before) for n, before, after in zip(kept, sizes, sizes[1:], strict=False)
    ]
    assert max(spent) - min(spent) <= 2 * candidates * CHUNK


def test_a_first_look_has_the_images_of_the_first_rung_that_is_no_screen() -> None:
    assert fewest_images([500, 2000], 8000, screen=False) == 500
    assert fewest_images([500, 16_000], 50_000, screen=True) == 16_000
    assert fewest_images([500], 2000, screen=True) == 500
    assert fewest_images([500, 2000], 250, screen=False) == 250
