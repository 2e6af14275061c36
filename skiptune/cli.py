"""The command line: parses, calls the library, prints, and chooses the exit code.

Exit codes: 0 done, 1 failed (the database stayed away, a worker kept failing, `doctor` has found
something to mend, or a bug), 2 something the user can mend, 130 after Ctrl-C, 143 after SIGTERM or
SIGUSR1. stdout is data, stderr is talk.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from keyword import iskeyword
from typing import NoReturn

import click

from skiptune import __version__
from skiptune.commands.interruption import INTERRUPTED, Stopped
from skiptune.commands.options import Options, shared
from skiptune.errors import SkiptuneError, SpecError, render

__all__ = ["cli", "main"]

# Where each command lives, in the order of `skiptune --help`.
COMMANDS = {
    "tune": "tuning",
    "create": "working",
    "worker": "working",
    "launch": "launching",
    "status": "reading",
    "doctor": "examining",
    "best": "reading",
    "report": "reporting",
    "confirm": "tuning",
    "sensitivity": "differentiating",
    "explain": "explaining",
    "dashboard": "serving",
    "export": "delivering",
    "sample": "sampling",
    "score": "scoring",
    "ref": "scoring",
    "init": "preparing",
    "check": "checking",
    "plan": "planning",
    "skips": "preparing",
    "import": "importing",
    "fetch": "fetching",
    "convert": "converting",
    "env": "preparing",
    "pause": "steering",
    "resume": "steering",
    "stop": "steering",
    "delete": "steering",
    "db": "database",
}


class _Commands(click.Group):
    """The group of commands; the module of a command is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, or None where there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"skiptune.commands.{COMMANDS[cmd_name]}")
        # `import` is a word of Python, which no function can have for a name.
        found = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(module, found)
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
)
@click.version_option(__version__, prog_name="skiptune", message="%(prog)s %(version)s")
@shared
def cli() -> None:
    """Find the skip-connection scales that make a diffusion U-Net sample better.

    \b
    Examples:
      skiptune tune fashion            tune the bundled network: search, confirm, export
      skiptune status fashion          where the study stands
      skiptune best fashion            the best scales so far, one row per skip
      skiptune init study.yaml         write a study file for your own network
      skiptune worker fashion          help with the study from this or another machine

    An interrupted command goes on where it stood when it is run again.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process.

    Arguments:
        arguments: The words after the program's name; by default those of this process.
    """
    words = tuple(sys.argv[1:] if arguments is None else arguments)
    options = Options(words=words)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Signs that the encoding of a terminal lacks are no reason to print nothing.
        sys.stdout.reconfigure(errors="replace")
    try:
        code = cli.main(list(words), prog_name="skiptune", standalone_mode=False, obj=options)
        # click returns the code of `ctx.exit()` (--help, --version) and a command's own value.
        sys.exit(code if isinstance(code, int) else 0)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print(f"Stopped. Run it again: {command_text(words)}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except SkiptuneError as error:
        _fail(error, options)
    except click.exceptions.NoArgsIsHelpError as error:
        # Who types the name alone wants to see what there is.
        print(error.format_message(), file=sys.stderr)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(_as_problem(error, words), options)
    except BrokenPipeError:
        # Whoever read our data, `head` perhaps, has read enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        print(f"skiptune failed: {type(error).__name__}: {error}", file=sys.stderr)
        if not options.debug:
            print(
                f"\nhint: run it with --debug for a bug report: {command_text(words)} --debug",
                file=sys.stderr,
            )
        sys.exit(1)


def command_text(words: Sequence[str]) -> str:
    """Return a command line that can be pasted; a password in it is masked."""
    from skiptune.storage.location import masked_url

    shown = []
    for before, word in zip(("", *words), words, strict=False):
        option, equals, value = word.partition("=")
        if before == "--storage":
            shown.append(masked_url(word))
        elif option == "--storage" and equals:
            shown.append(f"{option}={masked_url(value)}")
        else:
            shown.append(word)
    return shlex.join(["skiptune", *shown])


def _fail(error: SkiptuneError, options: Options) -> NoReturn:
    if options.debug:
        traceback.print_exc()
    print(render(error), file=sys.stderr)
    sys.exit(error.exit_code)


def _as_problem(error: click.ClickException, words: Sequence[str]) -> SkiptuneError:
    """Say what click found wrong in the shape of all our errors."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    name = next((word for word in words if word in COMMANDS), "")
    path = context.command_path if context is not None else f"skiptune {name}".rstrip()
    usage = "" if context is None else " ".join(context.command.collect_usage_pieces(context))
    expected = f"{path} {usage}".rstrip()
    where, found = path, error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        where, found = f"{path} {error.option_name}", "an unknown option"
        known = error.possibilities or ()
        if known:
            expected = f"an option it knows, e.g. {', '.join(sorted(known))}"
    elif isinstance(error, click.BadOptionUsage):
        where, expected = f"{path} {error.option_name}", "the option as its help page shows it"
    elif isinstance(error, click.MissingParameter) and error.param is not None:
        where = f"{path} {error.param.make_metavar(context)}" if context else path
        found = "nothing"
    elif isinstance(error, click.BadParameter) and error.param is not None and context:
        where = f"{path} {error.param.get_error_hint(context)}".replace("'", "")
        found = error.message.rstrip(".")
    elif context is not None and context.command is cli and words:
        near = get_close_matches(found.rpartition("'")[0].rpartition("'")[2], COMMANDS, n=1)
        meant = f" (did you mean `{near[0]}`?)" if near else ""
        expected = f"one of {', '.join(COMMANDS)}{meant}"
        found = found[:1].lower() + found[1:]
    return SpecError(where, expected=expected, found=found, hint=f"see `{path} --help`")
