"""A program that is tied to its parent leaves when that is killed, and else is itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from skiptune.launch.tether import tethered

Script = Callable[..., Path]

PARENT = """
import subprocess, sys, threading
from skiptune.launch.tether import tethered

def run():
    subprocess.Popen(tethered(sys.argv[1:])).wait()

threading.Thread(target=run).start()
"""


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_it_becomes_the_program_with_its_words_and_its_end(script: Script) -> None:
    program = script("program", 'echo "$$ $@"; exit 7')
    process = subprocess.Popen(tethered([str(program), "a b", "c"]), stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=60)
    assert (out.decode(), process.returncode) == (f"{process.pid} a b c\n", 7)


def test_a_parent_that_is_killed_takes_it_along(script: Script, tmp_path: Path) -> None:
    program = script(
        "program",
        f"trap 'echo left >{tmp_path}/left; exit' TERM\necho $$ >{tmp_path}/pid.new\n"
        f"mv {tmp_path}/pid.new {tmp_path}/pid\nwhile :; do sleep 0.02; done",
    )
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(program)])
    until((tmp_path / "pid").exists)
    parent.kill()
    assert parent.wait(60) == -signal.SIGKILL
    until((tmp_path / "left").exists)


def test_a_parent_that_is_gone_already_is_noticed(script: Script, tmp_path: Path) -> None:
    program = script("program", f"touch {tmp_path}/ran")
    words = tethered([str(program)])
    assert words[3] == str(os.getpid())
    words[3] = str(os.getppid())  # somebody, and not its parent
    assert subprocess.run(words, check=False, timeout=60).returncode == 143
    assert not (tmp_path / "ran").exists()
