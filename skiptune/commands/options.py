"""Options that every command takes, before its name and after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from skiptune.errors import quoted

__all__ = [
    "Options",
    "artifacts_option",
    "device_option",
    "pass_options",
    "shared",
    "store_options",
    "study_option",
    "tuned_files_options",
]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass
class Options:
    """What the shared options say; filled while the command line is read.

    Arguments:
        storage: What --storage says: a database URL, with its password; None without it.
        json: Print one JSON document on stdout.
        verbose: How many times -v was given.
        quiet: Print data and errors only.
        no_progress: Draw no bars.
        debug: Show tracebacks.
        words: The command line after the program's name, for `go on with` messages.
    """

    storage: str | None = None
    json: bool = False
    verbose: int = 0
    quiet: bool = False
    no_progress: bool = False
    debug: bool = False
    words: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """The URL of the database, with its password: for opening, never for printing.

        Raises:
            StorageError: The environment names two, or a file that cannot be used.
        """
        from skiptune.storage.location import resolve_url

        return resolve_url(self.storage)

    @property
    def there(self) -> str:
        """The option by which a command that is proposed finds this database, else nothing.

        Nothing as well for a URL with a password, which belongs into no command line.
        """
        from skiptune.storage.location import has_password

        if self.storage is None or has_password(self.storage):
            return ""
        return f" --storage {quoted(self.storage)}"

    def warn_of_password(self) -> None:
        """Tell that a password on the command line can be read by every user of the machine."""
        from skiptune.storage.location import has_password

        if self.storage is not None and has_password(self.storage) and not self.quiet:
            click.echo(
                "warning: other users see the password in the list of processes; put the URL"
                " into a file of mode 0600 and name it in SKIPTUNE_STORAGE_FILE",
                err=True,
            )


pass_options = click.make_pass_decorator(Options, ensure=True)


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep a shared option's value; what stands after the command's name wins."""
    name = str(parameter.name)
    given = context.get_parameter_source(name)
    if context.parent is None or given is ParameterSource.COMMANDLINE:
        options = context.ensure_object(Options)
        setattr(options, name, value)
        if name == "storage":
            options.warn_of_password()


_SHARED = (
    click.option(
        "--storage",
        metavar="URL",
        help="Database of the studies; else SKIPTUNE_STORAGE, or the file of mode 0600 that"
        " SKIPTUNE_STORAGE_FILE names.  [default: sqlite:///skiptune.db]",
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


def tuned_files_options(function: Function) -> Function:
    """Add `--checkpoint` and `--decoder`: where the files are that a TUNED.json names."""
    function = click.option(
        "--decoder",
        metavar="FOLDER",
        help="The VAE of a network of latents; by default the folder beside TUNED.json.",
    )(function)
    return click.option(
        "--checkpoint",
        metavar="FILE",
        help="The network; by default the bundled one or the file beside TUNED.json.",
    )(function)


def artifacts_option(function: Function) -> Function:
    """Add `--artifacts`, which says where per-image arrays are."""
    return click.option(
        "--artifacts",
        metavar="PLACE",
        envvar="SKIPTUNE_ARTIFACTS",
        show_envvar=True,
        help="Folder or s3://BUCKET/PREFIX that all workers share.  [default: skiptune-artifacts"
        " beside a SQLite database]",
    )(function)


def store_options(function: Function) -> Function:
    """Add `--artifacts` and `--group-writable`, which say where per-image arrays are stored."""
    function = click.option(
        "--group-writable",
        is_flag=True,
        envvar="SKIPTUNE_GROUP_WRITABLE",
        show_envvar=True,
        help="Let the folder's group write what is stored.",
    )(function)
    return artifacts_option(function)
