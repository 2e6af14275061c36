"""A warm start written into a study file: one line more, and nothing else."""

from __future__ import annotations

import difflib

import pytest

from skiptune.errors import SpecError
from skiptune.search.document import parse_yaml
from skiptune.search.spec import preset_text
from skiptune.search.start_names import is_tuned_file, with_start


@pytest.mark.parametrize(
    ("text", "added"),
    [
        ("study: a\n", ["", "search:", '  warm_start: "./s.json"']),
        ("study: a", ["", "search:", '  warm_start: "./s.json"']),
        ("search:\n    seed: 1  # mine\nstudy: a\n", ['    warm_start: "./s.json"']),
        ("search:\n\n  # of the search\n  seed: 1\n", ['  warm_start: "./s.json"']),
        ("search:\nstudy: a\n", ['  warm_start: "./s.json"']),
        ("search: # all\n  seed: 1\n", ['  warm_start: "./s.json"']),
        ("search:\n  warm_start: null  # none\n", ['  warm_start: "./s.json"  # none']),
        ("search:\n  warm_start:\n  seed: 1\n", ['  warm_start: "./s.json"']),
        (preset_text("fashion"), ['  warm_start: "./s.json"']),
    ],
)
def test_one_line_is_added(text: str, added: list[str]) -> None:
    made = with_start(text, "./s.json", name="study.yaml")
    before = parse_yaml(text, name="s").values
    values = parse_yaml(made, name="s").values
    assert values["search"].pop("warm_start") == "./s.json"
    before["search"] = before.get("search") or {}
    before["search"].pop("warm_start", None)
    assert values == before
    changes = list(difflib.ndiff(text.splitlines(), made.splitlines()))
    assert [line[2:] for line in changes if line.startswith("+ ")] == added
    gone = [line[2:] for line in changes if line.startswith("- ")]
    assert gone == [line for line in text.splitlines() if "warm_start:" in line]


@pytest.mark.parametrize("start", [f"/{'long/' * 30}s.json", r"./a\1b/s.json", './"ü" #/s.json'])
@pytest.mark.parametrize("text", ["study: a\n", "search:\n  warm_start: null  # none\n"])
def test_any_path_stands_there_whole(text: str, start: str) -> None:
    made = with_start(text, start, name="study.yaml")
    assert parse_yaml(made, name="s").values["search"] == {"warm_start": start}


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        (
            "search:\n  warm_start: other\n",
            "study.yaml:2: search.warm_start",
            '"other"',
        ),
        ("search: {seed: 1}\n", "study.yaml:1: search", "another form"),
        ("search: {warm_start: null}\n", "study.yaml:1: search", "another form"),
        ("{study: a}\n", "study.yaml: search", "another form"),
        ("search: 3\n", "study.yaml:1: search", "another form"),
        ("- 1\n", "study.yaml", "[1]"),
    ],
)
def test_other_files_are_left_to_their_writer(text: str, where: str, found: str) -> None:
    with pytest.raises(SpecError) as caught:
        with_start(text, "./s.json", name="study.yaml")
    (problem,) = caught.value.problems
    assert (problem.where, problem.found) == (where, found)
    assert caught.value.hint


def test_what_names_a_file() -> None:
    assert is_tuned_file("start.json") and is_tuned_file("./start")
    assert not is_tuned_file("fashion-6")
