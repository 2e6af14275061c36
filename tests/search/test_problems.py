from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, Field, ValidationError, field_validator

from skiptune.errors import Problem
from skiptune.search.document import dotted
from skiptune.search.problems import one_of, problems_of, refusal, suggestion
from skiptune.search.sections import Section


class Inner(Section):
    count: int = Field(ge=1, description="a count of at least 1")


class Outer(Section):
    word: Annotated[str, AfterValidator(one_of(("left", "right")))] = Field(description="a side")
    inner: Inner | Literal["none"] | None = Field(default=None, description="an inner, or none")
    rows: Annotated[tuple[Inner, ...], Field(strict=False)] = Field(default=(), description="rows")
    named: dict[str, Inner] = Field(default={}, description="inners by name")
    top: float = Field(default=1.0, description="a number")
    plain: int = 0

    @field_validator("top")
    @classmethod
    def _above(cls, top: float) -> float:
        if top <= 1:
            raise refusal("a number above 1")
        return top


def problems(values: dict[str, Any]) -> list[Problem]:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    return problems_of(caught.value, model=Outer, values=values, where=dotted)


GOOD = {"word": "left", "top": 2.0}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"word": "lefd"}, ("word", "one of left, right (did you mean `left`?)", '"lefd"')),
        ({"word": 3}, ("word", "a side", "3")),
        # Of a union, one problem, as deep as it can be told.
        ({"inner": 3}, ("inner", "an inner, or none", "3")),
        ({"inner": {"count": 0}}, ("inner.count", "a count of at least 1", "0")),
        ({"inner": {"count": "1"}}, ("inner.count", "a count of at least 1", '"1" (text)')),
        ({"rows": [{"count": 1}, {}]}, ("rows[1].count", "a count of at least 1", "nothing")),
        ({"rows": [{"count": 1}, 3]}, ("rows[1]", "rows", "3")),
        ({"named": {"count": {"count": 0}}}, ("named.count.count", "a count of at least 1", "0")),
        ({"named": {"a": 3}}, ("named.a", "inners by name", "3")),
        ({"top": 1}, ("top", "a number above 1", "1")),
        ({"plain": 0.5}, ("plain", "Input should be a valid integer", "0.5")),
        ({"inner": {"count": 1, "cuont": 1}}, ("inner.cuont", "one of count", "unknown key")),
    ],
)
def test_one_mistake_is_one_problem(change: dict[str, Any], problem: tuple[str, str, str]) -> None:
    (found,) = problems({**GOOD, **change})
    where, expected, value = problem
    assert found.where == where
    assert found.expected.startswith(expected)
    assert found.found.startswith(value)


def test_a_default_that_does_not_fit_is_called_one() -> None:
    (found,) = problems({"word": "left"})
    assert found == Problem("top", "a number above 1", "1.0 (default)")


def test_every_mistake_is_told_once_in_the_order_of_the_fields() -> None:
    values = {"plain": "x", "top": 0, "inner": {"count": 0}, "word": "up", "other": 1}
    places = [problem.where for problem in problems(values)]
    assert places == ["word", "inner.count", "top", "plain", "other"]


def test_suggestions_are_near_or_absent() -> None:
    assert suggestion("hihg", ["low", "high"]) == " (did you mean `high`?)"
    assert suggestion("zzz", ["low", "high"]) == ""
