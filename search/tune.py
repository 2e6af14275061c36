"""The whole job on one machine: search, confirm on fresh seeds, and the result.

Everything here may be killed at any moment and called again: what is stored decides what is left
to do, and the numbers come out the same. It is one worker; others may help it.
"""

from __future__ import annotations

from pathlib import Path

from skiptune.errors import NetworkError, StudyStoppedError
from skiptune.search.confirm import confirm_number, result_of
from skiptune.search.course import Course, confirming, sloping, whole_study
from skiptune.search.events import Listener, silent
from skiptune.search.result import Result
from skiptune.search.slopes import Slopes, refuse_slopes, slopes_of
from skiptune.search.spec import StudySpec
from skiptune.search.stopping import Stop
from skiptune.search.study import OpenStudy, open_study
from skiptune.search.worker import Limits, Worker
from skiptune.storage import ledger
from skiptune.storage.records import Evaluation

__all__ = ["confirm", "differentiated", "resume", "run", "tune"]


def tune(
    spec: StudySpec,
    *,
    storage: str = "sqlite:///skiptune.db",
    artifacts: Path | str | None = None,
    device: str = "cpu",
    on_event: Listener = silent,
) -> Result:
    """Search, confirm once, and return the result; a finished study returns what it found.

    Arguments:
        spec: The study, from `load_spec`.
        storage: Database URL.
        artifacts: Folder or bucket of the per-image arrays; see `open_study`.
        device: Torch device.
        on_event: Called with each `Event`.

    Raises:
        StudyStoppedError: Somebody has stopped the study meanwhile.
        SkiptuneError: Whatever is wrong with the spec, its files or the database.
    """
    study = open_study(spec, storage=storage, artifacts=artifacts, device=device)
    try:
        result = run(study, on_event=on_event)
    finally:
        study.database.close()
    if result is None:
        raise AssertionError("nobody asked it to stop")
    return result


def run(
    study: OpenStudy, *, on_event: Listener = silent, stop: Stop | None = None
) -> Result | None:
    """Bring an open study to its end: search, then the confirm that its candidates need.

    A study that is paused, stopped or finished goes on.

    Returns:
        The result, or None where `stop` was requested.

    Raises:
        StudyStoppedError: Somebody has stopped the study meanwhile.
    """
    resume(study)
    if not _worked(study, whole_study(study, on_event=on_event), on_event, stop):
        return None
    return result_of(study, confirm_number(study))


def confirm(
    study: OpenStudy, *, number: int, on_event: Listener = silent, stop: Stop | None = None
) -> Result | None:
    """Run the number-th confirm of a study, or read it where it is finished.

    Arguments:
        study: The study.
        number: From 1 on; a begun confirm is resumed, a finished one spending nothing.
        on_event: Who watches.
        stop: The wish to stop.

    Returns:
        The result, or None where `stop` was requested.

    Raises:
        StudyStoppedError: Somebody has stopped the study meanwhile.
    """
    if study.row.state in ("paused", "stopped"):
        resume(study)
    if not _worked(study, confirming(study, number, on_event=on_event), on_event, stop):
        return None
    return result_of(study, number)


def differentiated(
    study: OpenStudy, of: str, *, on_event: Listener = silent, stop: Stop | None = None
) -> tuple[Evaluation, Slopes] | None:
    """Take the slopes of one schedule of a study's search, or read those that are there.

    Arguments:
        study: The study.
        of: ``baseline``, ``best``, or a number of `skiptune status`.
        on_event: Who watches.
        stop: The wish to stop.

    Returns:
        The schedule's evaluation and its slopes, or None where `stop` was requested.

    Raises:
        SpecError: The objective has no slopes, there is no such schedule, or it has too few
            images.
        NetworkError: The derivatives are not finite, or could not be computed.
        StudyStoppedError: Somebody has stopped the study meanwhile.
    """
    refuse_slopes(study, f"study {study.spec.study}")
    if study.row.state in ("paused", "stopped"):
        resume(study)
    ends: list[tuple[Evaluation, Evaluation]] = []
    course = sloping(study, of, lambda *end: ends.append(end), on_event=on_event)
    if not _worked(study, course, on_event, stop):
        return None
    evaluation, entered = ends[-1]
    if entered.state != "complete":
        raise NetworkError(
            f"study {study.spec.study}: {entered.label}",
            expected="finite derivatives",
            found=entered.reason or entered.state,
            hint="take the slopes of another schedule: --of baseline",
        )
    return evaluation, slopes_of(study, entered)


def resume(study: OpenStudy) -> None:
    """Let a study that is paused, stopped or finished go on."""
    if ledger.require_study(study.database, study.row.name).state != "running":
        ledger.set_study_state(study.database, study.id, "running")


def _worked(study: OpenStudy, course: Course, on_event: Listener, stop: Stop | None) -> bool:
    """Work to the end of a course; False where the caller asked to stop."""
    worker = Worker(study, course, limits=Limits(until_done=True), on_event=on_event, stop=stop)
    ended = worker.run()
    if ended == "study stopped":
        raise StudyStoppedError(
            f"study {study.row.name}",
            expected="a study that runs",
            found="stopped by `skiptune stop`",
            hint=f"go on with it: skiptune resume {study.row.name}",
        )
    return ended == "complete"
