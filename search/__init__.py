"""From a study spec to a confirmed winner: proposals, promotions, a worker's loop, `tuned.json`.

This room calls the three others: `sampling` makes images, `objectives` turns them into numbers
with standard errors, `storage` keeps what was finished. It holds no network mathematics, no
statistics and no SQL of its own. Optuna proposes; our tables decide, and Optuna is told.

Names are imported on first use, so reading a spec costs neither torch nor Optuna. The whole job
is `skiptune.search.tune.tune`, also called `skiptune.tune`: a name of this package would hide its
module.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skiptune.search.result import Result
    from skiptune.search.space import Space
    from skiptune.search.spec import StudySpec, load_spec
    from skiptune.search.study import OpenStudy, open_study
    from skiptune.search.tuned import Tuned, load

_HOME = {
    "OpenStudy": "study",
    "Result": "result",
    "Space": "space",
    "StudySpec": "spec",
    "Tuned": "tuned",
    "load": "tuned",
    "load_spec": "spec",
    "open_study": "study",
}

__all__ = [
    "OpenStudy",
    "Result",
    "Space",
    "StudySpec",
    "Tuned",
    "load",
    "load_spec",
    "open_study",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"skiptune.search.{_HOME[name]}"), name)
    raise AttributeError(f"module 'skiptune.search' has no attribute {name!r}")
