"""Errors that a caller can handle, and the one shape in which a person sees them.

    SkiptuneError               where, expected, found, and a hint: the next command
    +-- SpecError               a study file or option is wrong (all problems at once)
    +-- NetworkError            a checkpoint, network or skip address is not what was asked for
    +-- ObjectiveError          an extractor, reference or feature array cannot be used
    +-- StorageError            the database or a stored file cannot be used
    |   +-- LeaseLostError      the lease of a chunk went to another worker
    |   +-- TurnLostError       the turn at a task of a study went to another worker
    |   +-- BudgetSpentError    what is asked for would exceed the study's budget
    |   +-- UnavailableError    the database cannot be reached now; it may be back in a moment
    |   +-- DiskFullError       a file cannot be stored for want of space
    +-- WorkerError             a worker failed again and again in the same way
    +-- LaunchError             workers cannot be started, asked for or ended where they are
    +-- StudyStoppedError       somebody has stopped the study from elsewhere
    +-- StudyChangedError       a study of this name exists with another meaning
    +-- OutputError             a result cannot be written

    SkiptuneWarning             what is done is not what was measured

A library function raises; only the command line prints (`render`) and chooses the exit code.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "BudgetSpentError",
    "DiskFullError",
    "LaunchError",
    "LeaseLostError",
    "NetworkError",
    "ObjectiveError",
    "OutputError",
    "Problem",
    "SkiptuneError",
    "SkiptuneWarning",
    "SpecError",
    "StorageError",
    "StudyChangedError",
    "StudyStoppedError",
    "TurnLostError",
    "UnavailableError",
    "WorkerError",
    "quoted",
    "render",
]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Arguments:
        where: The file, key, option or object that is wrong, e.g. ``study.yaml: space.low``.
        expected: What would have been accepted.
        found: What was there instead.
    """

    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"


class SkiptuneError(Exception):
    """A problem that the user can mend.

    Arguments:
        where: The file, key, option or object that is wrong.
        expected: What would have been accepted.
        found: What was there instead.
        hint: What to do next, preferably a command that can be pasted.
    """

    exit_code = 2

    def __init__(self, where: str, *, expected: str, found: str, hint: str) -> None:
        self.problems: tuple[Problem, ...] = (Problem(where, expected, found),)
        self.hint = hint
        super().__init__(f"{self.problems[0]} (hint: {hint})")

    @classmethod
    def of(cls, problems: Sequence[Problem], *, hint: str) -> SkiptuneError:
        """Make one error of several problems, so that a person mends them in one go."""
        if not problems:
            raise ValueError("an error needs at least one problem")
        first = problems[0]
        error = cls(first.where, expected=first.expected, found=first.found, hint=hint)
        error.problems = tuple(problems)
        error.args = ("; ".join(map(str, problems)) + f" (hint: {hint})",)
        return error


class SpecError(SkiptuneError):
    """A study file or a command-line option is wrong."""


class NetworkError(SkiptuneError):
    """A checkpoint, network or skip address is not what was asked for."""


class ObjectiveError(SkiptuneError):
    """An extractor, a reference or a feature array cannot be used."""


class StorageError(SkiptuneError):
    """The database or a stored file cannot be used."""


class LeaseLostError(StorageError):
    """The lease of a chunk expired and went to another worker: the result is dropped."""


class TurnLostError(StorageError):
    """The turn at a task expired and went to another worker: what was begun is dropped."""


class BudgetSpentError(StorageError):
    """What is asked for would exceed the budget of the study: nothing was entered."""


class UnavailableError(StorageError):
    """The database cannot be reached now: down, restarting, or too busy. Asking again helps."""

    exit_code = 1


class DiskFullError(StorageError):
    """A file cannot be stored for want of space: once there is some, the same call succeeds."""


class WorkerError(SkiptuneError):
    """A worker failed again and again in the same way: its chunks went back to the queue."""

    exit_code = 1


class LaunchError(SkiptuneError):
    """Workers cannot be started, asked for or ended where they are, or were refused there."""


class StudyStoppedError(SkiptuneError):
    """Somebody has stopped the study from elsewhere: there is no result yet."""

    exit_code = 1


class StudyChangedError(SkiptuneError):
    """A study of this name exists and means something else."""


class OutputError(SkiptuneError):
    """A result cannot be written where it was asked for."""


class SkiptuneWarning(UserWarning):
    """What is done is allowed, but not what was measured: other weights, another setting."""


def quoted(word: object) -> str:
    """Return a word of a command in a hint, a path perhaps, so that a shell reads it as one."""
    return shlex.quote(str(word))


def render(error: SkiptuneError) -> str:
    """Return the text that a person sees: where, expected, found, blank line, hint."""
    lines: list[str] = []
    for problem in error.problems:
        lines.append(f"error: {problem.where}")
        lines.append(f"       expected: {problem.expected}")
        lines.append(f"       found: {problem.found}")
    return "\n".join([*lines, "", f"hint: {error.hint}"])
