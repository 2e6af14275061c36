"""Streamed moments are those of all rows at once, to the bit however the rows are sliced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skiptune.errors import ObjectiveError
from skiptune.objectives import moments, symmetric
from skiptune.objectives.moments import Moments, in_blocks

Array = NDArray[np.float64]

DIM = 7


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Blocks and tiles so small that little data has many of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "BLOCK", 16)
        patch.setattr(symmetric, "TILE", 3)
        yield


def sample(rows: int, *, seed: int = 0, dim: int = DIM) -> Array:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((rows, dim)) * np.arange(1, dim + 1) + 3


def of(rows: NDArray[Any], *, groups: int = 1, cuts: tuple[int, ...] = ()) -> Moments:
    found = Moments(rows.shape[1], groups=groups)
    for piece in np.split(rows, sorted(cuts)):
        found.add(piece)
    return found


def assert_same_bits(first: Moments, second: Moments) -> None:
    ours, theirs = first.to_arrays(), second.to_arrays()
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype
        np.testing.assert_array_equal(array, theirs[name])
    np.testing.assert_array_equal(first.mean, second.mean)
    np.testing.assert_array_equal(first.covariance, second.covariance)


@pytest.mark.parametrize("rows", [2, 3, 15, 16, 17, 100])
@pytest.mark.parametrize("groups", [1, 4])
def test_moments_are_those_of_all_rows(rows: int, groups: int) -> None:
    data = sample(rows)
    found = of(data, groups=groups)
    assert found.count == rows
    np.testing.assert_allclose(found.mean, data.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(
        found.covariance, np.cov(data, rowvar=False), rtol=1e-11, atol=1e-11
    )
    np.testing.assert_array_equal(found.covariance, found.covariance.T)


@given(
    rows=st.integers(2, 90),
    cuts=st.lists(st.integers(0, 90), max_size=8),
    groups=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=60, deadline=None)
def test_slicing_changes_no_bit(rows: int, cuts: list[int], groups: int) -> None:
    data = sample(rows)
    assert_same_bits(of(data, groups=groups), of(data, groups=groups, cuts=tuple(cuts)))


def test_reading_midway_changes_no_bit() -> None:
    data = sample(75)
    watched = Moments(DIM, groups=4)
    for row in data:
        watched.add(row[None])
        assert np.isfinite(watched.mean).all()
        watched.parts()
    assert_same_bits(watched, of(data, groups=4))


@pytest.mark.parametrize("rows", [9, 16, 50])
def test_groups_are_rows_modulo_four(rows: int) -> None:
    data = sample(rows)
    centre, parts = of(data, groups=4).parts()
    for group, part in enumerate(parts):
        centred = data[group::4] - centre
        assert part.count == len(centred)
        np.testing.assert_allclose(part.total, centred.sum(axis=0), atol=1e-10)
        np.testing.assert_allclose(part.product, centred.T @ centred, rtol=1e-10, atol=1e-10)
        np.testing.assert_array_equal(part.product, part.product.T)


def test_nothing_cancels_far_from_zero() -> None:
    data = np.random.default_rng(1).standard_normal((200, DIM)) * 1e-3 + 1e6
    exact = data.astype(np.longdouble)
    exact -= exact.mean(axis=0)
    truth = (exact.T @ exact / (len(exact) - 1)).astype(np.float64)
    error = np.abs(of(data).covariance - truth).max()
    plain = data.T @ data / 199 - 200 / 199 * np.outer(data.mean(axis=0), data.mean(axis=0))
    assert error < 1e-12 * truth.max()
    assert np.abs(plain - truth).max() > 1e3 * truth.max(), "raw moments lose all digits here"


@given(
    first=st.integers(0, 40),
    second=st.integers(0, 40),
    later=st.integers(0, 40),
    groups=st.sampled_from([1, 4]),
)
@settings(max_examples=60, deadline=None)
def test_merged_moments_are_those_of_one_pass(
    first: int, second: int, later: int, groups: int
) -> None:
    data = sample(first + second + later + 2)
    data[first:] += 100  # another centre
    whole = of(data, groups=groups)
    merged = of(data[:first], groups=groups)
    other = of(data[first : first + second], groups=groups)
    before = other.to_arrays()
    merged.merge(other)
    for name, array in other.to_arrays().items():
        np.testing.assert_array_equal(array, before[name])
    merged.add(data[first + second :])
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-10, atol=1e-9)
    for ours, theirs in zip(merged.parts()[1], whole.parts()[1], strict=True):
        assert ours.count == theirs.count
    assert np.sum([part.count for part in merged.parts()[1]]) == whole.count
    # Groups are those of the rows' places in the whole.
    centre, parts = merged.parts()
    for group, part in enumerate(parts):
        np.testing.assert_allclose(
            part.total, (data[group::groups] - centre).sum(axis=0), atol=1e-8
        )


@pytest.mark.parametrize("stop", [0, 1, 15, 16, 17, 40])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_stored_state_goes_on_bit_by_bit(stop: int, groups: int) -> None:
    data = sample(60)
    resumed = Moments.from_arrays(of(data[:stop], groups=groups).to_arrays())
    resumed.add(data[stop:])
    assert_same_bits(resumed, of(data, groups=groups))


def test_a_stored_state_is_a_copy() -> None:
    found = of(sample(40))
    state = found.to_arrays()
    mean = found.mean
    for array in state.values():
        array[...] = 0
    np.testing.assert_array_equal(found.mean, mean)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64, np.uint8])
def test_other_numbers_are_reduced_in_float64(dtype: type) -> None:
    data: NDArray[Any] = np.abs(sample(40)).astype(dtype)
    np.testing.assert_array_equal(of(data).covariance, of(data.astype(np.float64)).covariance)


def test_real_block_sizes() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "BLOCK", 4096)
        patch.setattr(symmetric, "TILE", 256)
        data = sample(4500, dim=520)
        cut = of(data, groups=4, cuts=(1, 1000, 4095))
        assert_same_bits(of(data, groups=4), cut)
        expected = np.cov(data, rowvar=False)
        np.testing.assert_allclose(cut.covariance, expected, atol=1e-10 * expected.max())


def test_blocks_do_not_depend_on_the_pieces() -> None:
    data = sample(50).astype(np.float32)
    pieces = [data[:3], data[3:3], data[3:40], data[40:]]
    for source in (lambda: pieces, lambda: [data]):
        blocks = [block.copy() for block in in_blocks(source, dim=DIM)]
        assert [len(block) for block in blocks] == [16, 16, 16, 2]
        np.testing.assert_array_equal(np.concatenate(blocks), data)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (np.zeros((3, DIM + 1)), r"\[3, 8\]"),
        (np.zeros(DIM), r"\[7\]"),
        (np.array([["x"] * DIM]), "<U1"),
        (np.full((2, DIM), np.nan), "2 of 2 rows from row 5 on"),
        (np.vstack([np.zeros((20, DIM)), np.full((1, DIM), -np.inf)]), "1 of 21"),
    ],
)
def test_rows_that_do_not_fit_are_refused_whole(rows: NDArray[Any], found: str) -> None:
    taken = of(sample(5))
    with pytest.raises(ObjectiveError, match=found):
        taken.add(rows)
    assert_same_bits(taken, of(sample(5)))


def test_too_few_rows_are_refused() -> None:
    empty, one = Moments(DIM), of(sample(1))
    for read in (lambda: empty.mean, lambda: empty.parts(), lambda: one.covariance):
        with pytest.raises(ObjectiveError, match="at least"):
            read()
    np.testing.assert_array_equal(one.mean, sample(1)[0])


@pytest.mark.parametrize(("dim", "groups"), [(0, 1), (3, 0), (3, 3)])
def test_impossible_layouts_are_refused(dim: int, groups: int) -> None:
    with pytest.raises(ObjectiveError, match="groups that divide"):
        Moments(dim, groups=groups)


def test_moments_of_other_features_are_not_merged() -> None:
    with pytest.raises(ObjectiveError, match="8 features"):
        of(sample(5)).merge(of(sample(5, dim=8)))
    with pytest.raises(ObjectiveError, match="4 groups"):
        of(sample(5)).merge(of(sample(5), groups=4))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("layout", np.array([DIM, 1, 32])),
        ("layout", np.array([DIM, 1])),
        ("layout", np.array([DIM, 0, 16])),
        ("counts", np.array([1.0])),
        ("counts", np.array([0])),
        ("centre", np.zeros(0)),
        ("centre", np.full(DIM, np.nan)),
        ("totals", np.zeros((1, DIM), np.float32)),
        ("products", np.zeros((2, DIM, DIM))),
        ("waiting", np.zeros((16, DIM))),
        ("waiting", np.zeros(3)),
    ],
)
def test_a_damaged_state_is_refused(name: str, array: NDArray[Any]) -> None:
    state = of(sample(40)).to_arrays()
    with pytest.raises(ObjectiveError, match=r"to_arrays|groups that divide"):
        Moments.from_arrays({**state, name: array})
    del state[name]
    with pytest.raises(ObjectiveError, match=f"KeyError: '{name}'"):
        Moments.from_arrays(state)
