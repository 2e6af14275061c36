"""The command that shows studies in a browser, by Optuna's dashboard."""

from __future__ import annotations

import importlib.util
import logging
import re
import socket
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skiptune.commands.options import Options, pass_options, shared, store_options
from skiptune.errors import SpecError

if TYPE_CHECKING:
    from skiptune.views.dashboard.access import Access
    from skiptune.views.dashboard.server import Address

__all__ = ["dashboard"]

_PACKAGES = ("bottle", "optuna_dashboard", "plotly")


@click.command()
@click.argument("study", required=False)
@click.option(
    "--host",
    metavar="HOST",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; one that other hosts reach needs a token.",
)
@click.option(
    "--port",
    metavar="N",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File of mode 0600 with the secret that lets somebody in; else"
    " SKIPTUNE_DASHBOARD_TOKEN.  [default: none, for this host alone]",
)
@click.option(
    "--allow-edit",
    is_flag=True,
    help="Let who has the token change what Optuna stores: notes, names, studies.",
)
@click.option(
    "--allow-host",
    metavar="NAME",
    multiple=True,
    help="A name by which a reverse proxy or another host calls this server; may be repeated.",
)
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@store_options
@shared
@pass_options
def dashboard(
    options: Options,
    study: str | None,
    *,
    host: str,
    port: int,
    token_file: Path | None,
    allow_edit: bool,
    allow_host: tuple[str, ...],
    show: bool,
    artifacts: str | None,
    group_writable: bool,
) -> None:
    """Show the studies in a browser, by Optuna's dashboard.

    Nothing can be changed, and only programs of this host reach it, unless a token is set. It
    prints the address of the page, of STUDY or of the list, and serves it until Ctrl-C.

    \b
    Examples:
      skiptune dashboard
      skiptune dashboard fashion --open
      (umask 077; openssl rand -hex 24 > token)
      skiptune dashboard --host 0.0.0.0 --allow-host gpu1.example --token-file token
    """
    _require_packages()
    from skiptune.cli import command_text
    from skiptune.commands.interruption import stoppable
    from skiptune.commands.output import print_json, say
    from skiptune.commands.studies import hush
    from skiptune.search.artifacts import required_store
    from skiptune.storage import ledger
    from skiptune.storage.database import open_database
    from skiptune.views.dashboard.complaints import LogLines, Once
    from skiptune.views.dashboard.content import refresh
    from skiptune.views.dashboard.files import StoredFiles
    from skiptune.views.dashboard.guard import Guard
    from skiptune.views.dashboard.refreshing import Refreshing
    from skiptune.views.dashboard.served import Served, study_path
    from skiptune.views.dashboard.server import listen, resolve

    address = resolve(host, port)
    words = command_text(options.words)
    access = _access(address, token_file, edit=allow_edit, names=allow_host, command=words)
    hush(verbose=options.verbose)

    def tell(text: str) -> None:
        say(options, text)

    complain = Once(tell)
    log = logging.getLogger("optuna_dashboard")
    log.addHandler(LogLines(complain, whole=options.debug))
    log.propagate = False

    def names() -> tuple[str, ...]:
        return (study,) if study else tuple(s.name for s in ledger.list_studies(behind))

    # Two of them: on PostgreSQL each is one connection, and a long refresh holds no page up.
    with open_database(options.url) as database, open_database(options.url) as behind:
        if study is not None:
            ledger.require_study(database, study)
        store = required_store(database, artifacts, group_writable=group_writable)
        files = StoredFiles(store, complain)
        served = Served(database, files, edit=access.edit)
        # First the port: whoever asks for a used one shall not wait.
        each = tell if options.verbose else None
        hint = _without_port(words)
        with listen(address, command=hint, complain=complain, say=each) as server:
            bound = int(server.server_port)
            server.set_app(Guard(served, access.at(bound), healthy=served.is_healthy))
            refreshing = Refreshing(
                refresh, behind, store, names=names, say=complain, after=served.look
            )
            refreshing.once()
            shown = None if study is None else served.find(study)
            url = address.url(bound) + ("/dashboard" if shown is None else study_path(shown))
            # A second Ctrl-C may end the wait for the thread.
            with stoppable(f"Stopped. Start it again: {words}") as state:
                thread = threading.Thread(target=server.serve_forever, daemon=True)
                thread.start()
                refreshing.start()
                if options.json:
                    print_json({"url": url, "study": study, "edit": access.edit})
                else:
                    print(url, flush=True)
                _explain(options, access, study, shown)
                # The token would stand in the list of processes: a browser asks for it.
                if show and not webbrowser.open(url):
                    tell(f"No browser was found here; open it yourself: {url}")
                while not state.stop.wait(3600.0):
                    pass
                server.shutdown()
                refreshing.stop(timeout=5.0)
            state.raise_if_stopped()


def _access(
    address: Address, file: Path | None, *, edit: bool, names: tuple[str, ...], command: str
) -> Access:
    """Return who may do what.

    Raises:
        SkiptuneError: The token is missing where one is needed, or cannot be used; a name is none.
    """
    from skiptune.views.dashboard.access import LOOPBACK, Access, find_token, host_of, make_token

    token = find_token(file)
    if token is None and (edit or not address.is_loopback):
        raise SpecError(
            "--allow-edit" if edit else f"--host {address.given}",
            expected="a token, in the file that --token-file names or in SKIPTUNE_DASHBOARD_TOKEN:"
            f" {'everyone on this host' if address.is_loopback else 'other hosts'} could"
            f" {'change' if edit else 'see'} the studies without one",
            found="none",
            hint=f"{make_token('token')} && {command} --token-file token",
        )
    for name in names:
        if host_of(name) is None:
            raise SpecError(
                f"--allow-host {name}",
                expected="a name as it stands in the address of a browser, e.g. tune.example.org",
                found="a text that is none",
                hint="leave out the scheme, the port and the path",
            )
    hosts = {str(host_of(name)) for name in (*names, address.given)} | {str(address.ip)}
    if not address.is_loopback:
        hosts.add(socket.gethostname().lower())
    return Access(token=token, edit=edit, hosts=LOOPBACK | hosts, any_address=address.is_any)


def _explain(options: Options, access: Access, study: str | None, shown: int | None) -> None:
    """Tell on stderr what the server does, and what it waits for."""
    from skiptune.commands.output import say
    from skiptune.views.dashboard.access import LOOPBACK, is_address

    names = sorted(host for host in access.hosts - LOOPBACK if not is_address(host))
    if names and access.token is None:
        say(
            options,
            f"warning: without a token whoever is let through by {', '.join(names)} sees the"
            " studies; see --token-file",
        )
    if study is not None and shown is None:
        say(options, f"Optuna has no trial of {study} yet: it is in the list with the first one")
    rights = "Whoever has the token may edit" if access.edit else "Read-only"
    login = "; it asks for the token once" if access.token is not None and not access.edit else ""
    say(options, f"{rights}{login}. Ctrl-C ends it")


def _without_port(command: str) -> str:
    return re.sub(r" --port[ =]\S+", "", command)


def _require_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SpecError(
            "skiptune dashboard",
            expected="the packages of Optuna's dashboard",
            found=f"not installed: {', '.join(missing)}",
            hint="pip install 'skiptune[dashboard]'",
        )
