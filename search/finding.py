"""One thing that is wrong with a database or a study: seen, why it matters, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass

from skiptune.errors import StorageError

__all__ = ["Finding", "counted", "refused"]


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Arguments:
        check: Which of `CHECKS` has found it.
        study: Whose it is; None where it is the whole database's.
        found: What was seen.
        why: Why it matters.
        mend: What mends it; a command where one does.
        details: The single cases, e.g. every file that is missing.
        fixable: Whether `diagnose` mends it on request.
        mended: Whether it has.
        is_notice: Whether it is told only: there is nothing to mend.
    """

    check: str
    study: str | None
    found: str
    why: str
    mend: str
    details: tuple[str, ...] = ()
    fixable: bool = False
    mended: bool = False
    is_notice: bool = False

    @property
    def is_left(self) -> bool:
        """Whether somebody has to mend it yet."""
        return not (self.mended or self.is_notice)


def refused(check: str, error: StorageError, why: str) -> Finding:
    """Return what an error says as a finding.

    Arguments:
        check: What was looked at.
        error: What came of it.
        why: Why it matters.
    """
    problem = error.problems[0]
    return Finding(
        check,
        None,
        f"{problem.where}: {problem.found} (expected: {problem.expected})",
        why,
        error.hint,
    )


def counted(number: int, noun: str, several: str = "") -> str:
    """Return ``1 chunk`` or ``2 chunks``; `several` is an irregular plural."""
    return f"{number} {noun if number == 1 else several or f'{noun}s'}"
