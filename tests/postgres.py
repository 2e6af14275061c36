"""A PostgreSQL server for a whole test run, and databases in it for one test each.

A `conftest.py` imports the fixture; a test asks for it only if it needs it, so that a run
without such tests starts no server.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.postgres import Server

__all__ = ["fresh_database", "postgres_server", "quick_folder"]

MEMORY = Path("/dev/shm")

# A cluster with a hundred small databases, of which few exist at a time.
ENOUGH_BYTES = 1 << 30

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A PostgreSQL server, started for the first test that asks, stopped after the last."""
    # A time zone that no machine of ours has: who relies on the server's shall notice.
    settings = {"TimeZone": "Asia/Kathmandu"}
    with (
        quick_folder(tmp_path_factory) as folder,
        Server(folder, fast=True, settings=settings) as server,
    ):
        yield server


@contextmanager
def fresh_database(server: Server, template: str | None = None) -> Iterator[str]:
    """Make a database for one test, yield its URL, and drop it, whoever is connected to it.

    Arguments:
        server: Where.
        template: The database to copy; nobody may be connected to it. By default it is empty.
    """
    name = f"fresh_{next(_numbers)}"
    server.create_database(name, template=template)
    try:
        yield server.url(name)
    finally:
        server.drop_database(name)


@contextmanager
def quick_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a folder in memory, or else where pytest has its own, and remove it at the end.

    A database is 300 files. Where as many were removed in the last half minute, ext4 needs 0.2 s
    to make them (it looks for inodes not `recently_deleted`), memory 0.01 s.
    """
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ENOUGH_BYTES
    place = MEMORY if roomy else tmp_path_factory.mktemp("postgres")
    with tempfile.TemporaryDirectory(prefix="pg-", dir=place) as folder:
        yield Path(folder)
