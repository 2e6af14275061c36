"""The chaos run in its short form, and its checks, each of which is shown to fail."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.chaos import disturbed, undisturbed
from bench.chaos_checks import Injected, check_all
from bench.chaos_databases import BACKENDS, Backend, Change
from bench.chaos_evidence import Evidence, Trial
from bench.chaos_logs import CANARY, images
from bench.chaos_study import prepare

ROOT = Path(__file__).resolve().parents[2]

SECONDS = 8.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Evidence:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"), inputs=inputs, seconds=SECONDS)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_study_under_every_fault_ends_as_if_undisturbed(
    backend: Backend, tmp_path: Path, inputs: Path, calm: Evidence
) -> None:
    seed = int(os.environ.get("SKIPTUNE_TEST_SEED", "7"))
    report = disturbed(backend, tmp_path, inputs=inputs, seconds=SECONDS, seed=seed)

    done = report.injected.done
    assert [str(c) for c in check_all(report.found, calm, report.injected) if not c.passed] == []
    assert (done["SIGKILL"], done["SIGTERM"], done["database away"]) == (4, 2, 3)
    assert done["lease ran out"] == done["file truncated"] == done["disk full"] == 1
    assert done["cut after COMMIT"] == done["cut before COMMIT"] == int(backend == "postgresql")
    # Whoever was killed last is not replaced if the others are done by then.
    assert 4 + 4 <= report.started <= 4 + 4 + 2


# The checks can fail: each is shown what it must find, planted into an undisturbed run.


def changed_history(*more: Change) -> Callable[[Evidence], Evidence]:
    return lambda calm: dataclasses.replace(calm, history=(*calm.history, *more))


def with_claim(fence: int) -> Callable[[Evidence], Evidence]:
    """One more image of a chunk, from the same process, under another claim."""

    def plant(calm: Evidence) -> Evidence:
        image = next(i for i in calm.images if i.chunk != CANARY)
        return dataclasses.replace(
            calm, images=(*calm.images, dataclasses.replace(image, fence=fence))
        )

    return plant


def claimed_when_done(calm: Evidence) -> Evidence:
    chunk = calm.history[0].chunk
    again = [
        Change(chunk, 2, "done", "leased", 0, 0),
        Change(chunk, 2, "leased", "done", 0, 0),
    ]
    return changed_history(*again)(calm)


def sampled_late(calm: Evidence) -> Evidence:
    first, *rest = (i for i in calm.images if i.chunk != CANARY)
    late = dataclasses.replace(first, moment=time.monotonic_ns())
    return dataclasses.replace(calm, images=(late, *rest))


def sampled_by_two(calm: Evidence) -> Evidence:
    first, *rest = calm.images
    return dataclasses.replace(calm, images=(dataclasses.replace(first, pid=1), *rest))


def reopened(calm: Evidence) -> Evidence:
    """A whole file that was taken for damaged: everything about it is in order but the reason."""
    chunk = calm.history[0].chunk
    mine = [i for i in calm.images if i.chunk == chunk]
    more = [
        Change(chunk, 1, "done", "open", 250, 0),
        Change(chunk, 2, "open", "leased", 0, 0),
        Change(chunk, 2, "leased", "done", 0, 0),
    ]
    return dataclasses.replace(
        changed_history(*more)(calm),
        images=(*calm.images, *(dataclasses.replace(i, fence=2) for i in mine)),
        doubled=250,
    )


def with_trial(trial: Trial) -> Callable[[Evidence], Evidence]:
    return lambda calm: dataclasses.replace(calm, rungs=((*calm.rungs[0], trial), *calm.rungs[1:]))


def told_twice(calm: Evidence) -> Evidence:
    return with_trial(calm.rungs[0][-1])(calm)


def told_wrong(calm: Evidence) -> Evidence:
    *rest, last = calm.rungs[1]
    wrong = dataclasses.replace(last, value=math.nextafter(last.value or 0.0, math.inf))
    return dataclasses.replace(calm, rungs=(calm.rungs[0], (*rest, wrong)))


def scored_otherwise(calm: Evidence) -> Evidence:
    *rest, last = calm.scores
    moved = math.nextafter(last.standard_error, math.inf)
    return dataclasses.replace(
        calm, scores=(*rest, dataclasses.replace(last, standard_error=moved))
    )


def doubled_for_no_reason(calm: Evidence) -> Evidence:
    more = Change(calm.history[0].chunk, 1, "done", "done", 250, 1)
    return dataclasses.replace(changed_history(more)(calm), doubled=250)


COUNTED = "every budgeted image is counted once"
SAMPLED = "no committed chunk is sampled again"
OPEN = "nothing is left open"
TOLD = "Optuna holds our values"
SAME = "the scores are those of an undisturbed run"
DOUBLED = "doubled images are those of the faults"


@pytest.mark.parametrize(
    ("failing", "plant"),
    [
        (COUNTED, lambda calm: dataclasses.replace(calm, stored=calm.stored - 250)),
        (COUNTED, lambda calm: dataclasses.replace(calm, spent=calm.spent + 250)),
        (COUNTED, lambda calm: dataclasses.replace(calm, entered=calm.entered + 1)),
        (SAMPLED, claimed_when_done),
        (SAMPLED, with_claim(1)),
        (SAMPLED, with_claim(2)),
        (SAMPLED, lambda calm: dataclasses.replace(calm, images=calm.images[1:])),
        (SAMPLED, sampled_late),
        (SAMPLED, sampled_by_two),
        (SAMPLED, reopened),
        (OPEN, lambda calm: dataclasses.replace(calm, state="running")),
        (OPEN, lambda calm: dataclasses.replace(calm, open=("lease of somebody",))),
        (OPEN, with_trial(Trial("RUNNING", "", None))),
        (TOLD, told_twice),
        (TOLD, told_wrong),
        (TOLD, lambda calm: dataclasses.replace(calm, rungs=(calm.rungs[0], calm.rungs[1][1:]))),
        (TOLD, lambda calm: dataclasses.replace(calm, confirmed=None)),
        (SAME, scored_otherwise),
        (SAME, lambda calm: dataclasses.replace(calm, result={**calm.result, "alpha": 1.0})),
        (DOUBLED, doubled_for_no_reason),
        (DOUBLED, lambda calm: dataclasses.replace(calm, doubled=250)),
    ],
)
def test_a_planted_fault_fails_its_check(
    calm: Evidence, failing: str, plant: Callable[[Evidence], Evidence]
) -> None:
    checks = check_all(plant(calm), calm, Injected())
    assert failing in [check.name for check in checks if not check.passed]


def test_a_fault_that_left_no_trace_fails_the_check_of_doubled_images(calm: Evidence) -> None:
    assert all(check.passed for check in check_all(calm, calm, Injected()))
    chunk = calm.history[0].chunk
    for injected in (Injected(expired=[(chunk, 1)]), Injected(truncated=[chunk])):
        failed = [c.name for c in check_all(calm, calm, injected) if not c.passed]
        assert failed == [DOUBLED]


def test_a_line_that_was_begun_and_not_ended_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "0-7.images").write_text("1 7 s 5 c 1\n2 7 s 6 c 1\n2 7 s 7", encoding="utf-8")
    assert [image.seed for image in images(tmp_path)] == [5, 6]


def test_a_moved_clock_is_moved_for_every_library() -> None:
    program = (
        "import time; real = time.time()\n"
        "from bench.chaos_clock import shift; shift(3600)\n"
        "import datetime, psycopg\n"
        "print(time.time() - real, datetime.datetime.now().timestamp() - real,"
        " datetime.datetime.now(datetime.UTC).timestamp() - real)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(3600 <= float(word) < 3660 for word in done.stdout.split())
