"""The one shape of every error: where, expected, found, hint."""

from __future__ import annotations

import inspect
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skiptune import errors
from skiptune.errors import Problem, SkiptuneError, SpecError, quoted, render

LOW = Problem("study.yaml: space.low", "a number above 0", "-1")
HIGH = Problem("study.yaml: space.high", "a number above space.low", "0.2")

CLASSES = [
    value
    for name in errors.__all__
    if inspect.isclass(value := getattr(errors, name)) and issubclass(value, SkiptuneError)
]

problems = st.builds(Problem, st.text(), st.text(), st.text())


def test_rendered_error_is_what_the_documents_show() -> None:
    error = SpecError(
        "study.yaml: space.low", expected="a number above 0", found="-1", hint="mend"
    )
    assert render(error) == (
        "error: study.yaml: space.low\n"
        "       expected: a number above 0\n"
        "       found: -1\n"
        "\n"
        "hint: mend"
    )


def test_several_problems_are_rendered_in_order_under_one_hint() -> None:
    assert render(SpecError.of([LOW, HIGH], hint="mend")) == (
        "error: study.yaml: space.low\n"
        "       expected: a number above 0\n"
        "       found: -1\n"
        "error: study.yaml: space.high\n"
        "       expected: a number above space.low\n"
        "       found: 0.2\n"
        "\n"
        "hint: mend"
    )


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_keeps_its_class_and_its_parts(cls: type[SkiptuneError]) -> None:
    one = cls("here", expected="this", found="that", hint="do so")
    several = cls.of([LOW, HIGH], hint="do so")
    assert type(one) is type(several) is cls
    assert one.problems == (Problem("here", "this", "that"),)
    assert several.problems == (LOW, HIGH)
    assert one.hint == several.hint == "do so"
    passing = (errors.UnavailableError, errors.WorkerError, errors.StudyStoppedError)
    assert one.exit_code == (1 if cls in passing else 2)


@given(st.lists(problems, min_size=1, max_size=4), st.text())
def test_nothing_is_lost_in_the_message_or_on_the_screen(wrong: list[Problem], hint: str) -> None:
    error = SkiptuneError.of(wrong, hint=hint)
    for text in (str(error), render(error)):
        for problem in wrong:
            assert problem.where in text
            assert problem.expected in text
            assert problem.found in text
        assert hint in text


def test_an_error_without_a_problem_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        SpecError.of([], hint="nothing")


def test_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn: list[tuple[str, str]] = []
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        name = next((word for word in line.split() if word.endswith("Error")), None)
        if name is None or not line.startswith("    "):
            continue
        depth = (line.index(name) - 4) // 4
        above[depth:] = [name]
        drawn.append((name, above[depth - 1] if depth else "Exception"))
    assert sorted(drawn) == sorted((cls.__name__, cls.__bases__[0].__name__) for cls in CLASSES)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_shell_reads_a_quoted_word_as_one(word: str) -> None:
    assert shlex.split(f"rm {quoted(word)}") == ["rm", word]


@pytest.mark.parametrize("plain", ["study.yaml", "../results/tuned.json", "fashion-wide", "a=b"])
def test_what_needs_no_quotes_has_none(plain: str) -> None:
    assert quoted(plain) == plain
