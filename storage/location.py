"""Where a database is: one URL, checked before it is opened, printed without its password.

SQLite serves the processes of one host; PostgreSQL, by psycopg 3, as many hosts as it has
connections for.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from skiptune.errors import StorageError
from skiptune.storage.secret_files import read_secret

__all__ = [
    "DEFAULT_URL",
    "FILE_VARIABLE",
    "POSTGRESQL",
    "URL_VARIABLE",
    "has_password",
    "masked_url",
    "parse_url",
    "refuse_network_folder",
    "resolve_url",
    "sqlite_path",
]

DEFAULT_URL: Final = "sqlite:///skiptune.db"
URL_VARIABLE: Final = "SKIPTUNE_STORAGE"
FILE_VARIABLE: Final = "SKIPTUNE_STORAGE_FILE"

POSTGRESQL: Final = "postgresql+psycopg"
"""The one driver that is used, whatever form of the URL names it."""

_EXAMPLES: Final = "sqlite:///skiptune.db or postgresql://USER@HOST/DATABASE"
_POSTGRESQL_NAMES: Final = ("postgresql", "postgres", POSTGRESQL, "postgres+psycopg")
_SQLITE_NAMES: Final = ("sqlite", "sqlite+pysqlite")
_HINT: Final = "--storage sqlite:///PATH, or --storage postgresql://USER@HOST/DATABASE"

# Their locks do not reach other hosts, or mmap does not: SQLite's write-ahead log needs both.
# https://sqlite.org/wal.html ("does not work over a network filesystem"), sqlite.org/faq.html#q5
_NETWORK: Final = frozenset(
    "afs beegfs ceph cifs fuse.ceph fuse.cvmfs2 fuse.glusterfs fuse.juicefs fuse.mfs fuse.rclone"
    " fuse.s3fs fuse.sshfs glusterfs gpfs lustre nfs nfs4 ocfs2 orangefs panfs pvfs2 smb3"
    " smbfs".split()
)


def resolve_url(given: str | None = None, environment: Mapping[str, str] = os.environ) -> str:
    """Return the URL of the database: what is given, else the environment's, else the default.

    Arguments:
        given: From ``--storage``; None where the option is absent.
        environment: `SKIPTUNE_STORAGE` holds a URL; `SKIPTUNE_STORAGE_FILE` names a file that
            holds one and that nobody but its owner may read.

    Raises:
        StorageError: Both variables are set, or the file is missing, readable by others or empty.
    """
    if given is not None:
        return given
    url, file = environment.get(URL_VARIABLE), environment.get(FILE_VARIABLE)
    if url and file:
        raise StorageError(
            f"{URL_VARIABLE} and {FILE_VARIABLE}",
            expected="one of them",
            found="both are set",
            hint=f"unset {URL_VARIABLE}",
        )
    if file:
        return read_secret(
            Path(file),
            where=f"{FILE_VARIABLE}={file}",
            what="the URL of the database",
            example=f"for example: {_EXAMPLES}",
        )
    return url or DEFAULT_URL


def parse_url(url: str) -> URL:
    """Return a URL of a SQLite file or of a PostgreSQL database, the latter by psycopg 3.

    Raises:
        StorageError: It is no URL, of another kind, in memory, or its driver is not installed.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError) as error:
        raise _refused(url, "a text that is no database URL") from error
    if parsed.drivername in _POSTGRESQL_NAMES:
        return _postgresql(url, parsed)
    if backend in ("postgresql", "postgres"):
        raise StorageError(
            masked_url(url),
            expected="the driver psycopg (version 3)",
            found=f"the driver {parsed.drivername.partition('+')[2]}",
            hint="leave the driver out: --storage postgresql://USER@HOST/DATABASE",
        )
    if parsed.drivername not in _SQLITE_NAMES:
        raise _unknown(url, parsed.drivername)
    if parsed.database in (None, "", ":memory:") or "mode=memory" in url:
        raise StorageError(
            masked_url(url),
            expected="a SQLite file (sqlite:///PATH)",
            found="a database in memory, which no other process can see",
            hint=f"use --storage {DEFAULT_URL}",
        )
    return parsed


def masked_url(url: str) -> str:
    """Return the URL with its password replaced by ``***``, also where it does not parse."""
    # By pattern and not by parsing, which would leave the rest of a password after its own `@`.
    masked = re.sub(r"^([\w+]+://[^:/@]*|[^:/]*):(?!//).*@", r"\1:***@", url)
    return re.sub(r"(?i)(?<=password=)[^&#\s]*", "***", masked)


def has_password(url: str) -> bool:
    """Whether a URL carries a password, which other users see in a list of processes."""
    return masked_url(url) != url


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite database, None where the URL names another kind.

    Raises:
        StorageError: As `parse_url`.
    """
    parsed = parse_url(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None


def refuse_network_folder(path: Path, *, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Refuse a SQLite file on a file system that several hosts share.

    Arguments:
        path: The file, which need not exist.
        mounts: The kernel's list of mounts; where there is none, nothing is refused.

    Raises:
        StorageError: Naming the kind of file system and where it is mounted.
    """
    found = _mount_of(path, mounts)
    if found is None or found[1] not in _NETWORK:
        return
    raise StorageError(
        f"sqlite:///{path}",
        expected="a file on a local disk: on a network file system SQLite's locks do not hold"
        " and its write-ahead log does not work, so that two hosts would damage the file",
        found=f"{found[1]}, mounted on {found[0]}",
        hint="use a local path on one host, or PostgreSQL for several:"
        " --storage postgresql://USER@HOST/DATABASE",
    )


def _mount_of(path: Path, mounts: Path) -> tuple[str, str] | None:
    """Return mount point and type of the file system that holds a path."""
    target = path.absolute()
    # Below a folder that may not be searched os.path says no, where pathlib raises.
    while not os.path.exists(target) and target != target.parent:
        target = target.parent
    target = target.resolve()
    try:
        # After the look at the path, which an automounter answers by mounting what is there.
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    best: tuple[str, str] | None = None
    for line in lines:
        # proc(5): the mount point is field 5, the type the first one after the separator.
        fields, _, rest = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields.split()[4])
        covers = target.is_relative_to(point)
        # Of two mounts on one point the later one is seen.
        if covers and (best is None or len(point) >= len(best[0])):
            best = (point, rest.split()[0])
    return best


def _postgresql(url: str, parsed: URL) -> URL:
    if importlib.util.find_spec("psycopg") is None:
        raise StorageError(
            masked_url(url),
            expected="the package psycopg, which speaks to PostgreSQL",
            found="not installed",
            hint="pip install 'skiptune[postgres]'",
        )
    if not parsed.database:
        raise StorageError(
            masked_url(url),
            expected="the name of a database at the end of the URL",
            found="none",
            hint="--storage postgresql://USER@HOST/DATABASE",
        )
    return parsed.set(drivername=POSTGRESQL)


def _refused(url: str, found: str) -> StorageError:
    return StorageError(
        masked_url(url) or "the URL of the database",
        expected=f"a database URL such as {_EXAMPLES}",
        found=found,
        hint=f"use {_HINT}",
    )


def _unknown(url: str, driver: str) -> StorageError:
    known = ("sqlite", "postgresql")
    near = difflib.get_close_matches(driver.partition("+")[0], known, n=1)
    if near:
        return _refused(url, f"the unknown driver {driver!r}; did you mean {near[0]}://?")
    return _refused(url, f"the driver {driver!r}")
