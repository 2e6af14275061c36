"""Where words go: data to stdout, talk to stderr; and files that must be writable before work."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skiptune.errors import OutputError, quoted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from skiptune.commands.options import Options

__all__ = [
    "check_folder",
    "check_writable",
    "print_hints",
    "print_json",
    "print_text",
    "say",
    "stderr_console",
    "stdout_console",
]

WIDEST = 100  # columns; wider tables are harder to read, not easier
PIPED = 80  # columns where there is no terminal to ask

# The blank before an option: one with an odd number of quotes behind it is inside a quoted word.
_OPTIONS = re.compile(r" (?=--?[a-z])(?=[^']*(?:'[^']*'[^']*)*$)")


def print_json(value: Any) -> None:
    """Print one JSON document on stdout; numbers that JSON has no word for become null."""
    # Where the encoding lacks letters, JSON has escapes for them.
    ascii_alone = "utf" not in str(getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    print(json.dumps(_plain(value), indent=2, ensure_ascii=ascii_alone, allow_nan=False))


def print_text(*parts: RenderableType) -> None:
    """Print tables and paragraphs on stdout; what is piped has no blanks at the ends of lines."""
    console = stdout_console()
    if console.is_terminal:
        for part in parts:
            console.print(part)
        return
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    for line in capture.get().splitlines():
        print(line.rstrip())


def print_hints(hints: Iterable[str]) -> None:
    """Print next steps on stdout: each in a line, or the command in lines of its own.

    A command is broken before options alone, as a shell takes it when it is pasted.
    """
    width = stdout_console().width
    for number, hint in enumerate(hints):
        line = f"hint: {hint}"
        words, colon, rest = line.rpartition(": skiptune ")
        command = _broken(f"skiptune {rest}", width) if colon else []
        if len(line) > width and command:
            wrapped = textwrap.wrap(f"{words}:", width, break_long_words=False)
            line = "\n".join([*wrapped, *command])
        print(line if number else f"\n{line}", flush=True)


def _broken(command: str, width: int) -> list[str]:
    """Return a command in lines that fit; none where it cannot be broken so."""
    lines = [""]
    for part in _OPTIONS.split(command):
        if not lines[-1]:
            lines[-1] = part
        elif len(lines[-1]) + len(part) + 3 <= width:
            lines[-1] += f" {part}"
        else:
            lines[-1] += " \\"
            lines.append(f"  {part}")
    return lines if max(map(len, lines)) <= width else []


def say(options: Options, text: str) -> None:
    """Print one line for a person on stderr, unless --quiet."""
    if not options.quiet:
        print(text, file=sys.stderr, flush=True)


def stdout_console() -> Console:
    """Return the console of data."""
    return _console(stderr=False)


def stderr_console() -> Console:
    """Return the console of talk."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    # No markup and no highlighting: names of files and studies are printed as they are.
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=False)
    if "COLUMNS" not in os.environ and not console.is_terminal:
        console.width = PIPED
    console.width = min(console.width, WIDEST)
    return console


def check_writable(path: Path, *, force: bool, option: str = "-o") -> None:
    """Refuse a file that cannot be written, before any work is done for it.

    Arguments:
        path: The file to be written.
        force: Whether a file that is there may be replaced.
        option: How the user chose the path.

    Raises:
        OutputError: The folder is missing, is none, cannot be written, or the file is there, or
            something else, e.g. a device.
    """
    from skiptune.search.output import check_no_device

    where = f"{option} {path}"
    check_no_device(path, where=where)
    if path.is_dir():
        raise OutputError(
            where,
            expected="the path of a file",
            found="a folder",
            hint=f"name a file in it: {option} {quoted(path / 'NAME')}",
        )
    check_folder(path.absolute().parent, where=where)
    if path.exists() and not force:
        raise OutputError(
            where,
            expected="no file there yet",
            found="a file",
            hint=f"choose another name with {option}, or replace it with --force",
        )


def check_folder(folder: Path, *, where: str) -> None:
    """Refuse a folder in which no file can be made.

    Arguments:
        folder: The folder.
        where: What the user asked for, for the message.

    Raises:
        OutputError: The folder is missing, is none, or cannot be written.
    """
    try:
        # Tried, not asked: root passes every check of modes, and some file systems take no file.
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            where,
            expected="a folder that is there and can be written",
            found=f"{folder}: {error.strerror}",
            hint="make the folder, or choose another place",
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
