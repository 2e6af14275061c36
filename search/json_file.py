"""JSON files that people may have edited, read strictly: every fault has a place and a hint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from skiptune.errors import SpecError
from skiptune.search.document import Document, read_text, shown
from skiptune.search.problems import problems_of

__all__ = ["check_format", "model_of", "read_json"]

Model = TypeVar("Model", bound=BaseModel)


def read_json(path: Path | str, *, hint: str) -> Any:
    """Read plain JSON: whole, no key twice in one object, no NaN or infinity.

    Arguments:
        path: The file.
        hint: What to do when it is no such file.

    Raises:
        SpecError: It is missing, too large, cut short, or not plain JSON.
    """
    name = str(path)
    text = read_text(Path(path), hint=hint)
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"{name}:{error.lineno}"
        found = "the end of the file" if not text[error.pos :].strip() else error.msg
        raise SpecError(where, expected="complete JSON", found=found, hint=hint) from None
    except (ValueError, RecursionError) as error:
        found = str(error).splitlines()[0]
        raise SpecError(name, expected="plain JSON", found=found, hint=hint) from None


def check_format(values: Any, *, name: str, expected: str, version: int, hint: str) -> None:
    """Refuse another kind of file, and one that a newer skiptune has written.

    Arguments:
        values: What `read_json` gave.
        name: The file, for messages.
        expected: What its `format` must be.
        version: The highest `schema_version` that is known.
        hint: What to do about another kind of file.

    Raises:
        SpecError: It is one of these.
    """
    if not isinstance(values, dict) or values.get("format") != expected:
        found = shown(values.get("format") if isinstance(values, dict) else values)
        raise SpecError(f"{name}: format", expected=expected, found=found, hint=hint)
    written = values.get("schema_version")
    if isinstance(written, int) and written > version:
        raise SpecError(
            f"{name}: schema_version",
            expected=f"at most {version}",
            found=f"{written}, written by a newer skiptune",
            hint="pip install --upgrade skiptune",
        )


def model_of(model: type[Model], values: dict[str, Any], *, source: str, hint: str) -> Model:
    """Return what plain data describe.

    Arguments:
        model: What they are to be.
        values: The data.
        source: The file they are from, for messages.
        hint: What to do when they are something else.

    Raises:
        SpecError: With every problem at once.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        document = Document(source, values)
        problems = problems_of(error, model=model, values=values, where=document.where)
        raise SpecError.of(problems, hint=hint) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {shown(key)} twice in one object")
        values[key] = value
    return values


def _no_constant(text: str) -> float:
    raise ValueError(f"the number {text}")
