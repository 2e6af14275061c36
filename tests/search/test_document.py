from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune.errors import SpecError
from skiptune.search.document import dotted, parse_plain, parse_yaml, read_text, shown


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1.5E+2", 150.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("0.10", 0.1),
        ("3", 3),
        ("-0", 0),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1:30", "1:30"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("2026-11-01", "2026-11-01"),
        ("~", None),
        ("", None),
        ('"3"', "3"),
        ("1_000", "1_000"),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = parse_yaml(f"key: {text}", name="s.yaml").values["key"]
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_read_as_a_float() -> None:
    assert math.isnan(parse_yaml("key: .nan", name="s.yaml").values["key"])


words = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="\ufeff"))
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@given(values=st.dictionaries(words, plain, min_size=1, max_size=3))
def test_json_is_read_as_json_reads_it(values: dict[str, object]) -> None:
    document = parse_yaml(json.dumps(values, ensure_ascii=False), name="s.yaml")
    assert document.problems == ()
    assert document.values == values


def test_every_key_and_item_has_its_line() -> None:
    document = parse_yaml("a:\n  b: [1,\n   2]\nc: 3\n", name="s.yaml")
    assert document.where(("a", "b", 1)) == "s.yaml:3: a.b[1]"
    assert document.where(("c",)) == "s.yaml:4: c"
    assert document.where(("a", "missing")) == "s.yaml:1: a.missing"
    assert document.where(("nowhere",)) == "s.yaml: nowhere"
    assert document.where(()) == "s.yaml"


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        ("", "s.yaml", "an empty file"),
        ("# only a comment\n", "s.yaml", "an empty file"),
        ("- 1\n- 2\n", "s.yaml", "[1, 2]"),
        ("just words", "s.yaml", '"just words"'),
        ("a: [1,\nb: 2", "s.yaml:2", "expected"),
        ("a: 1\n--- \nb: 2", "s.yaml:2", "another document"),
        ("a: &x 1\nb: *x", "s.yaml:2", "alias"),
        ("a: \x00", "s.yaml", "unacceptable character"),
        ("a: '" + "x" * 10, "s.yaml:1", "unexpected end"),
        ("{" * 3000, "s.yaml", "nested too deeply"),
    ],
)
def test_what_is_no_yaml_mapping_is_refused(text: str, where: str, found: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, name="s.yaml")
    (problem,) = caught.value.problems
    assert problem.where == where
    assert found in problem.found
    assert problem.expected and caught.value.hint


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        ("a: 1\na: 2", "s.yaml:2: a", "`a` again (first on line 1)"),
        ("s:\n  a: 1\n  b: 1\n  a: 2", "s.yaml:4: s.a", "`a` again (first on line 2)"),
        ("3: 1", "s.yaml:1: ", "3"),
        ("[1, 2]: 1", "s.yaml:1: ", "a sequence"),
        ("a: !!python/object/apply:os.system [ls]", "s.yaml:1: a", "python/object"),
        ("a: !thing 3", "s.yaml:1: a", "!thing"),
        ("a: !!int word", "s.yaml:1: a", "int"),
    ],
)
def test_faults_are_kept_and_the_rest_is_read(text: str, where: str, found: str) -> None:
    document = parse_yaml(f"{text}\nlast: 1\n", name="s.yaml")
    (problem,) = document.problems
    assert problem.where.strip() == where.strip()
    assert found in problem.found
    assert document.values["last"] == 1


def test_overrides_apply_in_turn_and_are_named() -> None:
    document = parse_yaml("space: {low: 0.5, high: 2}\n", name="s.yaml").overridden(
        ["space.low=0.7", "search.rungs=[250, 500]", "space.low=0.8", "network.sha256="]
    )
    assert document.values["space"] == {"low": 0.8, "high": 2}
    assert document.values["search"] == {"rungs": [250, 500]}
    assert document.values["network"] == {"sha256": None}
    assert document.where(("space", "low")) == "-s space.low"
    assert document.where(("space", "high")) == "s.yaml:1: space.high"
    assert document.where(("search", "rungs", 1)) == "-s search.rungs: search.rungs[1]"
    assert document.is_overridden(("search", "rungs"))
    assert not document.is_overridden(("space", "high"))


def test_overrides_leave_the_document_alone() -> None:
    document = parse_yaml("space: {low: 0.5}\n", name="s.yaml")
    document.overridden(["space.low=0.7"])
    assert document.values == {"space": {"low": 0.5}}


def test_overrides_that_say_nothing_are_refused_together() -> None:
    document = parse_yaml("a: 1\n", name="s.yaml")
    with pytest.raises(SpecError) as caught:
        document.overridden(["space.low", "=3", "a..b=1", "a=[1", "a={b: 1, b: 2}"])
    places = [problem.where for problem in caught.value.problems]
    assert places[:3] == ["-s space.low", "-s =3", "-s a..b=1"]
    assert places[3].startswith("-s a:1") and places[4].startswith("-s a:1")


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "image.png"
    binary.write_bytes(b"\x89PNG\r\n")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * 1_000_001)
    for path, expected, found in [
        (tmp_path / "none.yaml", "a file", "no such file"),
        (tmp_path, "a file", "a folder"),
        (binary, "UTF-8 text", "binary data (byte 0x89 at offset 0)"),
        (large, "at most 1,000,000 bytes", "1,000,001 bytes"),
        (binary / "inside.yaml", "a readable file", "Not a directory"),
    ]:
        with pytest.raises(SpecError) as caught:
            read_text(path, hint="do this")
        (problem,) = caught.value.problems
        assert (problem.where, problem.expected, problem.found) == (str(path), expected, found)
        assert caught.value.hint == "do this"


def test_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xef\xbb\xbfstudy: a\n")
    assert parse_yaml(read_text(path, hint=""), name="s").values == {"study": "a"}


def test_paths_and_values_read_like_a_study_file() -> None:
    assert dotted(("space", "skips", 2)) == "space.skips[2]"
    assert shown({"a": [1, "b", None]}) == '{"a": [1, "b", null]}'
    assert len(shown("x" * 500)) == 70


def test_a_document_that_is_no_mapping_keeps_its_lines() -> None:
    value, document = parse_plain("- 1\n- a: 2\n  a: 3\n", name="s.yaml")
    assert value[0] == 1
    assert document.where((1,)) == "s.yaml:2: [1]"
    assert [problem.where for problem in document.problems] == ["s.yaml:3: [1].a"]
    assert parse_plain("", name="s.yaml")[0] is None
