"""What `search.warm_start` of a study spec accepts, and its line in a study file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from skiptune.errors import SpecError
from skiptune.search.document import parse_yaml, shown
from skiptune.search.problems import refusal

__all__ = ["STUDY_NAME", "StartNames", "is_tuned_file", "with_start"]

STUDY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,99}$"


def is_tuned_file(text: str) -> bool:
    """Return whether a warm start names a file: in a folder, or by the end of its name."""
    return "/" in text or text.endswith(".json")


def _listed(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


def _study_or_file(text: str, info: ValidationInfo) -> str:
    """Make a file's path absolute: relative ones start at the folder that the context names."""
    if is_tuned_file(text):
        folder = (info.context or {}).get(info.field_name, Path.cwd())
        return str((folder / Path(text).expanduser()).absolute())
    if not re.match(STUDY_NAME, text):
        raise refusal("the name of a study, or the path of a tuned.json or start.json")
    return text


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    for place, name in enumerate(names):
        if name in names[:place]:
            raise refusal("each study or file once", at=(place,))
    return names


StartNames = Annotated[
    tuple[Annotated[str, AfterValidator(_study_or_file)], ...],
    BeforeValidator(_listed),
    AfterValidator(_each_once),
    Field(strict=False, min_length=1),
]
"""Names of studies and absolute paths of files, each once; one alone may stand without a list."""


def with_start(text: str, start: str, *, name: str) -> str:
    """Return the text of a study file with a warm start; every other line stays as it is.

    Arguments:
        text: Of the study file.
        start: A study, or a path as it will stand there.
        name: The file, for messages.

    Raises:
        SpecError: It is no study file, has a warm start already, or writes `search` in one line.
    """
    document = parse_yaml(text, name=name)
    search = document.values.get("search")
    line = f"warm_start: {json.dumps(start, ensure_ascii=False)}\n"
    by_hand = f"add it yourself, under `search`: `{line.rstrip()}`, or a list of all"
    if isinstance(search, dict) and search.get("warm_start") is not None:
        raise SpecError(
            document.where(("search", "warm_start")),
            expected="no warm start yet",
            found=shown(search["warm_start"]),
            hint=by_hand,
        )
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    if "search" not in document.values:
        lines += ["\n", "search:\n", f"  {line}"]
    elif isinstance(search, dict) and "warm_start" in search:  # as null
        place = document.lines[("search", "warm_start")] - 1
        null = r"warm_start\s*:[^#\n]*?(?=\s*(#|$))"
        lines[place] = re.sub(null, lambda _: line.rstrip(), lines[place])
    else:
        place = document.lines[("search",)]
        keys = search if isinstance(search, dict) else ()
        inner = [document.lines[("search", key)] for key in keys]
        # A search in one line is not taken apart: what comes out below is no study file then.
        indent = re.match(r"\s*", lines[min(inner) - 1] if inner else "  ")
        lines.insert(place, f"{indent[0] if indent else ''}{line}")
    made, inner_values = "".join(lines), search or {}
    agrees = isinstance(inner_values, dict)
    if agrees:
        wanted = {**document.values, "search": {**inner_values, "warm_start": start}}
        try:
            agrees = parse_yaml(made, name=name).values == wanted
        except SpecError:
            agrees = False
    if not agrees:
        where = document.where(("search",))
        raise SpecError(where, expected="one key per line", found="another form", hint=by_hand)
    return made
