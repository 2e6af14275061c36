"""Workers of this host that are gone: their leases end now, not when their time runs out.

A process that was killed cannot hand its chunk back. On its own host that is a fact anyone can
check, so a resumed study does not wait for the lease; leases of other hosts run out by the
database's clock.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path

from skiptune.canonical import digest
from skiptune.storage import leases
from skiptune.storage.database import Database
from skiptune.storage.turns import end_turn, held_turns, settle

__all__ = ["break_dead_leases", "is_gone", "process_name", "worker_name"]


def worker_name() -> str:
    """Return the name of this process, see `process_name`."""
    return process_name(os.getpid())


def process_name(pid: int) -> str:
    """Return host, boot, process and the process's start, e.g. ``node7:5e1f03a9:4711:892201``.

    The second part tells apart what share a host's name and not its processes: another boot, or
    another container. The start tells a worker from a later process with the same number.
    """
    return f"{socket.gethostname()}:{_processes()}:{pid}:{_start(pid)}"


def break_dead_leases(database: Database, study_id: str) -> int:
    """End the leases and turns of this host's dead workers; return how many."""
    left = [turn for turn in held_turns(database, study_id) if is_gone(turn.worker)]
    if left:
        settle(database)
    turns = sum(end_turn(database, turn) for turn in left)
    dead = [
        lease
        for lease in leases.leases(database, study_id)
        if lease.worker and is_gone(lease.worker)
    ]
    return turns + sum(leases.break_lease(database, lease) for lease in dead)


def is_gone(worker: str) -> bool:
    """Return whether this was a process of this host, and is none any more.

    Arguments:
        worker: A name from `process_name`; of another host nothing is known, and it is not gone.
    """
    here, _, start = worker.rpartition(":")
    here, _, pid = here.rpartition(":")
    if here != f"{socket.gethostname()}:{_processes()}" or not pid.isdecimal():
        return False
    return _start(int(pid)) != start


@cache
def _processes() -> str:
    """Return 8 hexadecimal digits for this boot of the kernel and this namespace of processes."""
    facts = []
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        facts.append(os.readlink("/proc/self/ns/pid"))
    return digest(facts)[:8]


def _start(pid: int) -> str:
    """Return the kernel's start time of a process in clock ticks, or nothing if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _start_elsewhere(pid)
    # The command's name may hold spaces and brackets; field 22 counts from after the last one.
    state, *fields = text.rpartition(")")[2].split()
    return "" if state == "Z" else fields[18]


def _start_elsewhere(pid: int) -> str:
    """Return whether a process lives where there is no /proc, e.g. on macOS."""
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"
