"""What is wrong with a database and its studies, as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator

from skiptune.search.diagnosis import Diagnosis, Finding

__all__ = ["diagnosis_lines"]

SHOWN = 5
"""Single cases of a finding that are shown; ``--json`` has all."""


def diagnosis_lines(diagnosis: Diagnosis) -> Iterator[str]:
    """Yield the lines of a report; they are not wrapped, so that commands can be pasted."""
    for finding in diagnosis.findings:
        yield from _finding(finding)
        yield ""
    if diagnosis.skipped:
        yield f"not looked at: {', '.join(diagnosis.skipped)}"
    yield f"{diagnosis.storage}: {_summary(diagnosis)}"


def _finding(finding: Finding) -> Iterator[str]:
    word = "mended" if finding.mended else "notice" if finding.is_notice else "problem"
    whose = "" if finding.study is None else f" of study {finding.study}"
    yield f"{word}: {finding.check}{whose}"
    yield f"  found: {finding.found}"
    for detail in finding.details[:SHOWN]:
        yield f"         {detail}"
    if len(finding.details) > SHOWN:
        yield f"         and {len(finding.details) - SHOWN} more"
    yield f"  why: {finding.why}"
    if not finding.mended:
        yield f"  mend: {finding.mend}"


def _summary(diagnosis: Diagnosis) -> str:
    studies = len(diagnosis.studies)
    parts = [f"{studies} {'study' if studies == 1 else 'studies'} looked at"]
    mended = sum(finding.mended for finding in diagnosis.findings)
    if mended:
        parts.append(f"{mended} mended")
    parts.append(f"{diagnosis.left} to mend" if diagnosis.left else "nothing to mend")
    return ", ".join(parts)
