"""JSON that people may have edited; every other file that is read so has its own tests beside."""

from __future__ import annotations

from pathlib import Path

import pytest

from skiptune.errors import SpecError
from skiptune.search.json_file import check_format, model_of, read_json
from skiptune.search.sections import Section


def test_plain_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2.5, null, "b"]}')
    assert read_json(path, hint="mend it") == {"a": [1, 2.5, None, "b"]}


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        ('{"a": 1,\n', ":2", "the end of the file"),
        ('{"a": {"b": 1, "b": 1}}', "", 'the key "b" twice in one object'),
        ("[NaN]", "", "the number NaN"),
        ("[1e400, Infinity]", "", "the number Infinity"),
    ],
)
def test_everything_else_is_refused_with_its_place(
    text: str, where: str, found: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        read_json(path, hint="mend it")
    (problem,) = caught.value.problems
    assert (problem.where, problem.found) == (f"{path}{where}", found)
    assert caught.value.hint == "mend it"


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ([], "a.json: format"),
        ({}, "a.json: format"),
        ({"format": "b"}, "a.json: format"),
        ({"format": "a", "schema_version": 3}, "a.json: schema_version"),
    ],
)
def test_other_formats_and_newer_ones_are_refused(values: object, where: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_format(values, name="a.json", expected="a", version=2, hint="mend it")
    assert caught.value.problems[0].where == where
    check_format(
        {"format": "a", "schema_version": 2}, name="a.json", expected="a", version=2, hint=""
    )


class Pair(Section):
    one: int
    two: float = 2.5


def test_data_become_what_they_describe_or_all_mistakes_are_told() -> None:
    assert model_of(Pair, {"one": 1}, source="a.json", hint="mend it") == Pair(one=1)
    with pytest.raises(SpecError) as refused:
        model_of(Pair, {"one": "x", "three": 3}, source="a.json", hint="mend it")
    assert refused.value.hint == "mend it"
    assert {problem.where for problem in refused.value.problems} == {
        "a.json: one", "a.json: three",
    }  # fmt: skip
