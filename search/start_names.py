"""What `search.warm_start` of a study spec accepts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from skiptune.search.problems import refusal

__all__ = ["STUDY_NAME", "StartNames", "is_tuned_file"]

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
        raise refusal("the name of a study, or the path of a tuned.json")
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
