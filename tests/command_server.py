"""Runs command lines, each in a process of its own that needs no fresh import of torch.

`python command_server.py` reads jobs from stdin, one JSON object per line: `words`, `folder`,
and the files `out` and `err`. For each it forks, and the child runs the command line
as `python -m skiptune` would; the answer is a line with the child's exit code. Nothing else runs
in the parent, so that forking is safe.
"""

from __future__ import annotations

import ctypes
import json
import os
import pkgutil
import struct
import sys
import traceback
from importlib import import_module
from typing import Any, NoReturn

import skiptune.commands
import skiptune.search.export
import skiptune.search.tune
import skiptune.views
import skiptune.views.picture
from skiptune.cli import main

CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3, see capset(2)


def serve() -> None:
    """Answer jobs until stdin ends."""
    for package in (skiptune.commands, skiptune.views):
        for module in pkgutil.iter_modules(package.__path__):
            import_module(f"{package.__name__}.{module.name}")
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(job)
            _finish(job["words"])
        status = os.waitpid(child, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


def _finish(words: list[str]) -> NoReturn:
    """Run the command line and end this child as the interpreter would, but at once."""
    code = 1
    try:
        main(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Taking torch's modules apart costs a second, and nothing is learned from it.
        os._exit(code)


def _become(job: dict[str, Any]) -> None:
    """Make this child look like a process that a shell has started in a folder."""
    os.chdir(job["folder"])
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    _obey_modes()


def _obey_modes() -> None:
    """Give up all capabilities: root, too, is then refused what a file's mode refuses."""
    header = struct.pack("Ii", CAPABILITY_VERSION, 0)
    # Effective, permitted and inheritable capabilities, in two halves: none.
    if ctypes.CDLL(None, use_errno=True).capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    serve()
