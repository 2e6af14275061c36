"""Options that every command takes, before its name and after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from click.core import ParameterSource

__all__ = ["DEFAULT_STORAGE", "Options", "device_option", "pass_options", "shared", "study_option"]

DEFAULT_STORAGE = "sqlite:///skiptune.db"

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass
class Options:
    """What the shared options say; filled while the command line is read.

    Arguments:
        storage: Database URL, with its password.
        json: Print one JSON document on stdout.
        verbose: How many times -v was given.
        quiet: Print data and errors only.
        no_progress: Draw no bars.
        debug: Show tracebacks.
        words: The command line after the program's name, for `go on with` messages.
    """

    storage: str = DEFAULT_STORAGE
    json: bool = False
    verbose: int = 0
    quiet: bool = False
    no_progress: bool = False
    debug: bool = False
    words: tuple[str, ...] = ()


pass_options = click.make_pass_decorator(Options, ensure=True)


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep a shared option's value; what stands after the command's name wins."""
    name = str(parameter.name)
    given = context.get_parameter_source(name)
    if context.parent is None or given is ParameterSource.COMMANDLINE:
        setattr(context.ensure_object(Options), name, value)


_SHARED = (
    click.option(
        "--storage",
        metavar="URL",
        envvar="SKIPTUNE_STORAGE",
        default=DEFAULT_STORAGE,
        show_default=True,
        show_envvar=True,
        help="Database of the studies.",
    ),
    click.option("--json", is_flag=True, help="Print one JSON document on stdout."),
    click.option("-v", "--verbose", count=True, help="Tell more on stderr."),
    click.option("-q", "--quiet", is_flag=True, help="Print data and errors only."),
    click.option(
        "--no-progress",
        is_flag=True,
        envvar="SKIPTUNE_NO_PROGRESS",
        show_envvar=True,
        help="Lines instead of progress bars.",
    ),
    click.option("--debug", is_flag=True, help="Show the traceback of an error."),
)


def shared(function: Function) -> Function:
    """Add the shared options to a command or a group; read them with `pass_options`."""
    for option in reversed(_SHARED):
        # A fresh option for each command: click collects them on the function.
        function = option(function)
    for parameter in function.__click_params__:  # type: ignore[attr-defined]
        if parameter.name in Options.__dataclass_fields__ and parameter.callback is None:
            parameter.callback = _remember
            parameter.expose_value = False
    return function


def device_option(function: Function) -> Function:
    """Add `--device`."""
    return click.option(
        "--device",
        metavar="DEVICE",
        default="cpu",
        show_default=True,
        help="Torch device, e.g. cpu, cuda, cuda:1.",
    )(function)


def study_option(function: Function) -> Function:
    """Add `-s KEY=VALUE`, which changes keys of a study file."""
    return click.option(
        "-s",
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help="Change a key of the study file, e.g. -s space.low=0.7; may be repeated.",
    )(function)
