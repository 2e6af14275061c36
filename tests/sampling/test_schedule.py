"""Schedules: canonical form, identity and lookup."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pickle
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.errors import SpecError
from skiptune.sampling.schedule import (
    BRANCHES,
    PARTS,
    Schedule,
    Term,
    place_name,
    place_of,
)

_ADDRESSES = ("4x4_block0", "4x4_block1", "8x8_block0")
_SCALES = st.one_of(
    st.sampled_from([0.0, 0.7, 1.0, 1.0, 1.3]), st.floats(0, 1e6, allow_subnormal=True)
)
_LEVELS = st.one_of(st.sampled_from([0.0, 0.002, 0.5, 80.0, math.inf]), st.floats(0, 1e3))


@st.composite
def _terms(draw: st.DrawFn) -> list[Term]:
    """Terms whose windows do not overlap, some empty or adjoining, in any order."""
    terms = []
    places = st.tuples(st.sampled_from(_ADDRESSES), st.sampled_from(["both", *PARTS[:2]]))
    for address, part in draw(st.lists(places, unique=True, max_size=4)):
        cuts = sorted(draw(st.lists(_LEVELS, max_size=6)))
        for low, high in pairwise(cuts):
            if draw(st.booleans()) and low < math.inf:
                terms.append(Term(address, draw(_SCALES), low, high, part))
    return draw(st.permutations(terms))


def _brute_force(terms: list[Term], address: str, sigma: float, part: str = "both") -> float:
    product = 1.0
    for term in terms:
        here = (term.address, term.part) == (address, part)
        if here and term.low <= sigma < term.high:
            product *= term.scale
    return product


@given(_terms(), st.sampled_from(BRANCHES))
def test_json_round_trip_is_exact(terms: list[Term], branches: str) -> None:
    schedule = Schedule(terms, branches=branches)
    text = json.dumps(schedule.to_json(), allow_nan=False)
    again = Schedule.from_json(json.loads(text))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert again.digest == schedule.digest
    assert again.to_json() == schedule.to_json()


@given(_terms(), st.randoms())
def test_canonical_form_is_idempotent_and_knows_no_order(terms: list[Term], random: Any) -> None:
    schedule = Schedule(terms)
    assert Schedule(schedule.terms).terms == schedule.terms
    random.shuffle(terms)
    assert Schedule(terms) == schedule
    assert Schedule(terms).digest == schedule.digest


@given(_terms(), _LEVELS)
def test_scale_agrees_with_brute_force(terms: list[Term], sigma: float) -> None:
    schedule = Schedule(terms)
    for address in (*_ADDRESSES, "16x16_block9"):
        for part in PARTS:
            expected = _brute_force(terms, address, sigma, part)
            assert schedule.scale(address, sigma, part=part) == expected
    places = [(address, part) for address in _ADDRESSES for part in PARTS]
    assert schedule.acts(sigma) == any(_brute_force(terms, a, sigma, p) != 1 for a, p in places)


@given(_terms(), _terms())
def test_schedules_are_equal_exactly_when_they_act_alike(one: list[Term], two: list[Term]) -> None:
    edges = {edge for term in (*one, *two) for edge in (term.low, term.high)}
    levels = sorted(edges | {0.0})
    alike = all(
        _brute_force(one, address, level, part) == _brute_force(two, address, level, part)
        for address in _ADDRESSES
        for part in PARTS
        for level in levels
        if level < math.inf
    )
    assert (Schedule(one) == Schedule(two)) == alike
    assert (Schedule(one).digest == Schedule(two).digest) == alike


def test_splitting_a_window_changes_nothing() -> None:
    whole = Schedule([Term("a", 0.7, 0.5, 3.0)])
    parts = Schedule([Term("a", 0.7, 1.0, 3.0), Term("a", 0.7, 0.5, 1.0), Term("a", 0.2, 9, 9)])
    assert parts == whole
    assert parts.terms == (Term("a", 0.7, 0.5, 3.0),)


def test_digest_does_not_change_between_versions() -> None:
    # Stored studies are found by it.
    schedule = Schedule([Term("16x16_block0", 0.7), Term("8x8_block1", 1.25, 0.5, 3.0)])
    assert schedule.to_json() == {
        "terms": [
            {"address": "16x16_block0", "scale": 0.7},
            {"address": "8x8_block1", "scale": 1.25, "low": 0.5, "high": 3.0},
        ]
    }
    text = (
        '{"terms":[{"address":"16x16_block0","scale":"0x1.6666666666666p-1"},'
        '{"address":"8x8_block1","high":"0x1.8000000000000p+1",'
        '"low":"0x1.0000000000000p-1","scale":"0x1.4000000000000p+0"}]}'
    )
    assert schedule.digest == hashlib.sha256(text.encode()).hexdigest()
    assert Schedule.baseline().digest == hashlib.sha256(b'{"terms":[]}').hexdigest()


def test_parts_are_written_where_they_are_not_both() -> None:
    whole = Schedule.uniform({"a": 0.7})
    assert whole.to_json() == {"terms": [{"address": "a", "scale": 0.7}]}
    assert whole.parts == ("both",)
    digests = {whole.digest}
    for part in PARTS[1:]:
        one = Schedule.uniform({"a": 0.7}, part=part)
        assert one.to_json() == {"terms": [{"address": "a", "scale": 0.7, "part": part}]}
        assert one.parts == (part,)
        assert one.addresses == ("a",)
        digests.add(one.digest)
    assert len(digests) == len(PARTS)
    # Side by side, windows of different parts may overlap.
    two = Schedule(
        [Term("a", 0.7, part="shortcut"), Term("a", 0.9), Term("b", 1, part="residual")]
    )
    assert two.parts == ("both", "shortcut")
    assert not Schedule([Term("b", 1, part="residual")]).parts
    assert repr(two).count("Term") == 2


@pytest.mark.parametrize("part", PARTS)
def test_names_of_places_lead_back(part: str) -> None:
    assert place_of(place_name("16x16_block0", part)) == ("16x16_block0", part)
    assert place_name("16x16_block0") == "16x16_block0"
    for plain in ("up/0", "shortcut/", "/a", "shortcuts/a"):
        assert place_of(plain) == (plain, "both")


def test_what_is_no_part_is_refused() -> None:
    with pytest.raises(SpecError, match="one of both, shortcut, residual, whole-shortcut"):
        Term("a", 0.7, part="shortcuts")
    for part in ("all", None, ["both"]):
        with pytest.raises(SpecError, match="a: part"):
            Schedule.from_json({"terms": [{"address": "a", "scale": 0.7, "part": part}]})


def test_branches_are_part_of_a_schedule_where_they_are_not_both() -> None:
    schedules = [Schedule.uniform({"a": 0.7}, branches=branches) for branches in BRANCHES]
    assert [schedule.branches for schedule in schedules] == list(BRANCHES)
    assert [schedule.to_json().get("branches") for schedule in schedules] == [
        None,
        "cond",
        "uncond",
    ]
    text = '{"branches":"cond","terms":[{"address":"a","scale":"0x1.6666666666666p-1"}]}'
    assert schedules[1].digest == hashlib.sha256(text.encode()).hexdigest()
    assert len(set(schedules)) == len({schedule.digest for schedule in schedules}) == 3
    assert schedules[0] == Schedule.uniform({"a": 0.7})
    assert repr(schedules[0]) == repr(Schedule.uniform({"a": 0.7}))
    assert "uncond" in repr(schedules[2])
    # Scales of 1 act nowhere.
    assert Schedule.uniform({"a": 1.0}, branches="cond") == Schedule.baseline()
    assert Schedule(branches="uncond").digest == Schedule.baseline().digest
    with pytest.raises(SpecError, match="both, cond, uncond"):
        Schedule([Term("a", 0.7)], branches="conditional")


def test_ints_and_negative_zero_are_their_floats() -> None:
    ints = Schedule([Term("a", 2, 0, 3), Term("b", -0.0)])
    floats = Schedule([Term("a", 2.0, 0.0, 3.0), Term("b", 0.0)])
    assert ints.digest == floats.digest
    assert json.dumps(ints.to_json()) == json.dumps(floats.to_json())


def test_baseline_and_uniform() -> None:
    assert Schedule().is_baseline
    assert Schedule.baseline() == Schedule.uniform({"a": 1.0, "b": 1})
    uniform = Schedule.uniform({"b": 0.8, "a": 0.8, "c": 1.0}, low=0.1, high=5.0)
    assert uniform.addresses == ("a", "b")
    assert not uniform.is_baseline
    assert uniform.scale("a", 0.1) == 0.8
    assert uniform.scale("a", 5.0) == 1.0


def test_schedules_are_immutable_values() -> None:
    schedule = Schedule.uniform({"a": 0.5})
    assert copy.deepcopy(schedule) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    one = Schedule(schedule.terms, branches="cond")
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one
    assert {schedule: 1}[Schedule.uniform({"a": 0.5})] == 1
    assert schedule != "a"
    with pytest.raises(AttributeError):
        schedule.terms = ()  # type: ignore[misc]


@pytest.mark.parametrize("scale", [-0.5, math.nan, math.inf, -math.inf])
def test_bad_scales_are_refused(scale: float) -> None:
    with pytest.raises(SpecError, match="scale"):
        Term("a", scale)


@pytest.mark.parametrize(("low", "high"), [(2.0, 1.0), (-1.0, 1.0), (math.nan, 1), (0, math.nan)])
def test_bad_windows_are_refused(low: float, high: float) -> None:
    with pytest.raises(SpecError, match="window"):
        Term("a", 0.5, low, high)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_overlapping_windows_are_refused_whatever_the_scale(scale: float) -> None:
    with pytest.raises(SpecError, match="overlap"):
        Schedule([Term("a", 0.5, 0.0, 2.0), Term("a", scale, 1.0, 3.0)])


@pytest.mark.parametrize(
    ("value", "wheres"),
    [
        (None, ["schedule"]),
        ({"terms": {}}, ["schedule"]),
        ({"terms": [], "kind": 1}, ["schedule: kind"]),
        ({"terms": [3]}, ["schedule: terms[0]"]),
        ({"terms": [], "branches": "all"}, ["schedule: branches"]),
        ({"terms": [3], "branches": None}, ["schedule: branches", "schedule: terms[0]"]),
        ({"terms": [{"address": "a"}]}, ["schedule: terms[0].scale"]),
        ({"terms": [{"address": "", "scale": 1}]}, ["schedule: terms[0].address"]),
        ({"terms": [{"address": "a", "scale": True}]}, ["schedule: terms[0].scale"]),
        ({"terms": [{"address": "a", "scale": -1}]}, ["schedule: a: scale"]),
        (
            {"terms": [{"address": "a", "scale": "x", "width": 3}, {"scale": 1, "high": None}]},
            [
                "schedule: terms[0].width",
                "schedule: terms[0].scale",
                "schedule: terms[1].address",
                "schedule: terms[1].high",
            ],
        ),
    ],
)
def test_every_problem_of_bad_json_is_told_at_once(value: Any, wheres: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        Schedule.from_json(value)
    assert [problem.where for problem in caught.value.problems] == wheres
    assert caught.value.hint
