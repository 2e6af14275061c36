"""From pydantic's errors to problems that a person can mend, all at once.

Every field of a skiptune model carries a description that says in words what it accepts; that is
the `expected` of each of its problems. Validators that know more raise `refusal(...)`.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from skiptune.errors import Problem
from skiptune.search.document import Path_, dotted, shown

__all__ = ["choices_text", "hints_of", "one_of", "problems_of", "refusal", "suggestion"]


def refusal(expected: str, *, at: Path_ = (), hint: str = "") -> PydanticCustomError:
    """Return the error a validator raises to say what would have been accepted.

    Arguments:
        expected: In words.
        at: Path of the offending value below the validated one.
        hint: What mends it, where that is more than what was expected.
    """
    context = {"expected": expected, "at": at, "hint": hint}
    return PydanticCustomError("skiptune", "expected {expected}", context)


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Return ` (did you mean `x`?)` for the choice nearest to a word, or nothing."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" (did you mean `{close[0]}`?)" if close else ""


def choices_text(word: str, choices: Sequence[str]) -> str:
    """Return `one of a, b, c` with a suggestion for the word that was not among them."""
    return f"one of {', '.join(choices)}{suggestion(word, choices)}"


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """Return a validator that accepts only the given words."""

    def check(word: str) -> str:
        if word not in choices:
            raise refusal(choices_text(word, choices))
        return word

    return check


def problems_of(
    error: ValidationError,
    *,
    model: type[BaseModel],
    values: Any,
    where: Callable[[Path_], str],
) -> list[Problem]:
    """Return one problem for each mistake in the values, in the order of the model's fields.

    Arguments:
        error: What pydantic said.
        model: The model that was validated.
        values: The plain data that was validated.
        where: Names a path for a person.
    """
    found: dict[Path_, Problem] = {}
    for item in error.errors(include_url=False):
        kind = item["type"]
        context = item.get("ctx", {})
        path = (*_path(model, item["loc"], values), *context.get("at", ()))
        owner, info = _field(model, path)
        value = _at(values, path)
        expected = (info.description if info else None) or str(item["msg"])
        text = "nothing" if value is _ABSENT else shown(value)
        if value is _ABSENT and kind != "missing":
            text = f"{shown(item['input'])} (default)"
        if kind == "extra_forbidden":
            key = str(path[-1])
            known = list(owner.model_fields) if owner else []
            expected, text = choices_text(key, known), f"unknown key `{key}`"
        elif kind == "skiptune":
            expected = str(context["expected"])
        elif kind.endswith("_type") and isinstance(value, str):
            text += " (text)"
        found.setdefault(path, Problem(where(path), expected, text))
    # A union reports every branch: what is said inside a value is better than about the whole.
    inner = {path[:end] for path in found for end in range(len(path))}
    return [problem for path, problem in found.items() if path not in inner]


def hints_of(
    error: ValidationError,
    *,
    model: type[BaseModel],
    values: Any,
    explained: Container[Path_],
) -> list[str]:
    """Return what mends mistakes, where that is known, each once.

    Arguments:
        error: What pydantic said.
        model: The model that was validated.
        values: The plain data that was validated.
        explained: The keys that a study file explains, by path. Of others that are known the
            default is told: they may be left out.
    """
    hints: list[str] = []
    for item in error.errors(include_url=False):
        context = item.get("ctx", {})
        path = (*_path(model, item["loc"], values), *context.get("at", ()))
        info = _field(model, path)[1]
        hint = context.get("hint", "") if item["type"] == "skiptune" else ""
        told = hint or path in explained or item["type"] == "extra_forbidden"
        if not told and info is not None and not info.is_required():
            default = info.get_default(call_default_factory=True, validated_data={})
            if isinstance(default, BaseModel):
                default = default.model_dump(mode="json")
            hint = f"leave {dotted(path)} out for its default, {shown(default)}"
        if hint and hint not in hints:
            hints.append(hint)
    return hints


_ABSENT = object()


def _path(model: type[BaseModel], loc: Sequence[int | str], values: Any) -> Path_:
    """Return pydantic's location without the names of union branches that it mixes in."""
    path: Path_ = ()
    for step in loc:
        longer = (*path, step)
        is_key = isinstance(step, str) and _field(model, longer)[1] is not None
        if is_key or _at(values, longer) is not _ABSENT:
            path = longer
    return path


def _at(values: Any, path: Path_) -> Any:
    for step in path:
        if isinstance(values, Mapping) and step in values:
            values = values[step]
        elif isinstance(values, list | tuple) and isinstance(step, int) and step < len(values):
            values = values[step]
        else:
            return _ABSENT
    return values


def _field(model: type[BaseModel], path: Path_) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """Return the model that owns the last key of a path, and the key's field if it is known."""
    owner: type[BaseModel] | None = model
    info: FieldInfo | None = None
    inner: type[BaseModel] | None = model
    free_key = False
    for step in path:
        if isinstance(step, int) or free_key:
            free_key = False
            continue
        owner, info = inner, inner.model_fields.get(step) if inner else None
        inner = _model_in(info.annotation) if info else None
        free_key = info is not None and typing.get_origin(info.annotation) is dict
    return owner, info


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model inside an annotation such as `tuple[M, ...]` or `M | str | None`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    for part in typing.get_args(annotation):
        inner = _model_in(part)
        if inner is not None:
            return inner
    return None
