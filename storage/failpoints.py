"""Places where a test can kill the process: before and after every commit and every rename.

`SKIPTUNE_FAIL_POINT="commit_chunk.before"` kills the process (SIGKILL, so nothing is cleaned up)
the first time it arrives there; `"commit_chunk.before:3"` the third time. Without the variable a
fail point is one dictionary look-up. `ALL_POINTS` is every place there is, so a test that walks
through it covers each crash that the order of commits and renames allows.
"""

from __future__ import annotations

import os
import signal
from typing import Final

__all__ = ["ALL_POINTS", "STEPS", "VARIABLE", "fail_point"]

VARIABLE: Final = "SKIPTUNE_FAIL_POINT"

STEPS: Final = (
    # one commit each: see the function of this name
    "upgrade",
    "create_study",
    "set_study_state",
    "set_study_spec",
    "add_evaluation",
    "promote",
    "finish_evaluation",
    "put_score",
    "put_artifact",
    "spend_block",
    "reopen_chunks",
    "claim_chunk",
    "renew",
    "release",
    "commit_chunk",
    "poison",
    "retry_failed",
    "break_lease",
    "take_turn",
    "end_turn",
    "mark_told",
    "forget_told",
    "drop_arrays",
    "delete_study",
    # the rename that gives a stored file its final name
    "store_file",
)

ALL_POINTS: Final = (
    *(f"{step}.{side}" for step in STEPS for side in ("before", "after")),
    # Optuna has committed a trial that no row of ours knows yet
    "search.asked",
)

_arrivals: dict[str, int] = {}


def fail_point(name: str) -> None:
    """Kill this process if the environment asks for it here, else do nothing.

    Arguments:
        name: One of `ALL_POINTS`.

    Raises:
        ValueError: The name, or the one in the environment, is not a fail point: a misspelt name
            would make a crash test pass without a crash.
    """
    if name not in ALL_POINTS:
        raise ValueError(f"{name!r} is not a fail point")
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    point, _, nth = wanted.partition(":")
    if point not in ALL_POINTS:
        raise ValueError(f"{VARIABLE} names {point!r}, which is not a fail point")
    if point != name:
        return
    _arrivals[name] = _arrivals.get(name, 0) + 1
    if _arrivals[name] == int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
