"""Which workers are dead: only what this host can know of its own processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from skiptune.search import liveness
from skiptune.search.liveness import break_dead_leases, worker_name
from skiptune.search.study import SEARCH, SEARCH_SEED, OpenStudy
from skiptune.storage import leases
from skiptune.storage.turns import held_turns, take_turn
from tests.search.conftest import UNTIL_DONE, Tiny, crew_member


def here(pid: int, start: str = "1") -> str:
    host, processes = worker_name().split(":")[:2]
    return f"{host}:{processes}:{pid}:{start}"


def gone() -> int:
    """The number of a process that has ended and been waited for."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def held(study: OpenStudy, worker: str) -> bool:
    """Give a worker a lease and a turn, and return whether they hold after a look around."""
    study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=250)
    claim = leases.claim_chunk(study.database, study.id, worker=worker, seconds=600.0)
    turn = take_turn(study.database, study.id, task="propose", worker=worker, seconds=600.0)
    assert claim is not None and turn is not None
    broken = break_dead_leases(study.database, study.id)
    lease = next(item for item in leases.leases(study.database, study.id))
    kept = bool(held_turns(study.database, study.id))
    assert kept == (lease.remaining > 0) == (broken == 0)
    assert broken in (0, 2)
    return kept


def test_a_name_tells_host_boot_process_and_start() -> None:
    name = worker_name()
    assert name == worker_name()
    host, processes, pid, start = name.rsplit(":", 3)
    assert host == socket.gethostname()
    assert re.fullmatch("[0-9a-f]{8}", processes)
    assert int(pid) == os.getpid()
    stat = Path(f"/proc/{pid}/stat").read_text()
    # proc(5): field 22 is the start time; field 2 is in brackets.
    assert start == stat[stat.rindex(")") + 2 :].split()[22 - 3]


def test_a_living_worker_keeps_what_it_holds(tiny: Tiny) -> None:
    assert held(tiny.open(), worker_name())


def test_a_worker_that_is_gone_loses_it(tiny: Tiny) -> None:
    assert not held(tiny.open(), here(gone()))


def test_one_whose_number_another_process_has_loses_it(tiny: Tiny) -> None:
    assert not held(tiny.open(), here(os.getpid()))


def test_one_that_was_killed_and_not_waited_for_loses_it(tiny: Tiny) -> None:
    process = subprocess.Popen(["sleep", "600"])
    try:
        start = liveness._start(process.pid)
        assert held(tiny.open(), here(process.pid, start))
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not held(tiny.open(study="other", setting__steps=4), here(process.pid, start))
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "change",
    [
        lambda host, processes, pid: f"elsewhere:{processes}:{pid}:1",
        lambda host, processes, pid: f"{host}:00000000:{pid}:1",
        lambda host, processes, pid: f"{host}.domain:{processes}:{pid}:1",
        lambda host, processes, pid: f"{host}:{processes}:-{pid}:1",
        lambda host, processes, pid: f"{host}:{pid}:1",
        lambda host, processes, pid: f"{pid}",
        lambda host, processes, pid: "worker",
    ],
    ids=["host", "boot or namespace", "domain", "no number", "old", "number", "word"],
)
def test_whoever_cannot_be_looked_up_here_is_never_declared_dead(
    tiny: Tiny, change: object
) -> None:
    host, processes = worker_name().split(":")[:2]
    assert callable(change)
    assert held(tiny.open(), change(host, processes, gone()))


def test_another_boot_and_another_namespace_have_other_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def name(boot: str, namespace: str) -> str:
        liveness._processes.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", lambda self: f"{boot}\n")
            patch.setattr(os, "readlink", lambda path: namespace)
            return liveness._processes()

    try:
        names = {name("a", "pid:[1]"), name("b", "pid:[1]"), name("a", "pid:[2]")}
        assert len(names) == 3
        assert name("a", "pid:[1]") in names
    finally:
        liveness._processes.cache_clear()


def test_a_study_goes_on_at_once_after_its_worker_was_killed(tiny: Tiny, quick: None) -> None:
    study = tiny.open()
    dead = here(gone())
    study.baseline(block=SEARCH, first_seed=SEARCH_SEED, images=500)
    claim = leases.claim_chunk(study.database, study.id, worker=dead, seconds=1e6)
    turn = take_turn(study.database, study.id, task="propose", worker=dead, seconds=1e6)
    assert claim is not None and turn is not None
    assert crew_member(tiny.open(), "next", limits=UNTIL_DONE).run() == "complete"
