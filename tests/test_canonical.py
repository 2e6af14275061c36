"""Canonical text: the same text exactly for the same thing, and its hash."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.canonical import canonical, digest, file_digest

finite = st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | st.integers() | finite | st.text()
plain = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def kind(value: Any) -> Any:
    """Return a value that is equal exactly for the same data: types count, order does not."""
    if isinstance(value, dict):
        return ("mapping", frozenset((key, kind(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return ("sequence", tuple(kind(item) for item in value))
    return (type(value).__name__, value)


def shuffled(value: Any) -> Any:
    """Return the same data with every mapping's keys in reverse and lists as tuples."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    if isinstance(value, list):
        return tuple(shuffled(item) for item in value)
    return value


def test_text_and_hash_are_the_stored_ones() -> None:
    # Written once, stored in every database: these may never change.
    value = {"scale": 0.7, "address": "16x16_block0", "steps": (6, True, None), "zero": -0.0}
    text = (
        '{"address":"16x16_block0","scale":"0x1.6666666666666p-1",'
        '"steps":[6,true,null],"zero":"0x0.0p+0"}'
    )
    assert canonical(value) == text
    assert digest(value) == hashlib.sha256(text.encode()).hexdigest()


@given(finite)
def test_floats_come_back_bit_for_bit(value: float) -> None:
    read = float.fromhex(json.loads(canonical([value]))[0])
    assert read == value
    assert math.copysign(1, read) == math.copysign(1, value + 0.0)


@given(plain)
def test_order_of_keys_and_kind_of_sequence_do_not_count(value: Any) -> None:
    assert canonical(shuffled(value)) == canonical(value)


@given(plain, plain)
def test_text_is_equal_exactly_for_equal_data(left: Any, right: Any) -> None:
    assert (canonical(left) == canonical(right)) == (kind(left) == kind(right))


@pytest.mark.parametrize(
    ("left", "right"),
    [(1, 1.0), (1, True), (0, False), (0, None), ("1", 1), ([], {}), ([[1], 2], [1, 2])],
)
def test_things_that_python_or_a_reader_may_confuse_differ(left: Any, right: Any) -> None:
    assert canonical(left) != canonical(right)


@pytest.mark.parametrize("value", [0.7, 0.0, -3.5, 5e-324, 1.7976931348623157e308])
def test_a_string_that_reads_as_a_float_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="text of a float"):
        canonical({"label": [value.hex()]})


@pytest.mark.parametrize("value", ["0x", "0x10", "0x1.8p+0", " 0x0.0p+0"])
def test_other_hexadecimal_text_is_text(value: str) -> None:
    assert json.loads(canonical(value)) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_without_a_value_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="no canonical text"):
        canonical({"scale": [1.0, value]})


@pytest.mark.parametrize("value", [b"bytes", bytearray(b"b"), {1, 2}, object(), 1j, {1: "key"}])
def test_what_is_not_plain_data_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical([value])


@given(plain)
def test_text_is_ascii_json_on_one_line(value: Any) -> None:
    text = canonical(value)
    assert text.isascii()
    assert "\n" not in text
    json.loads(text)


@given(st.binary(max_size=1000))
def test_file_digest_is_the_sha256_of_the_bytes(tmp_path_factory: Any, data: bytes) -> None:
    path: Path = tmp_path_factory.mktemp("digest") / "file"
    path.write_bytes(data)
    assert file_digest(path) == file_digest(str(path)) == hashlib.sha256(data).hexdigest()
