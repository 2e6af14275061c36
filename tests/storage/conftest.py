"""A database with tables but no rows, a study in it, and ways to add evaluations and do chunks.

Every test that asks for a database runs on SQLite and on PostgreSQL; one that looks into the file,
or that only a server can answer, is marked `on_sqlite` or `on_postgresql`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from bench.postgres import Server
from skiptune.storage import leases, ledger
from skiptune.storage.database import Database, init_database, open_database
from tests.postgres import fresh_database

T = TypeVar("T")

BACKENDS = ("sqlite", "postgresql")
TEMPLATE = "skiptune_template"

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


@pytest.fixture
def quiet_optuna() -> Iterator[None]:
    """Optuna tells of nothing less than a warning."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The kind of database of a test."""
    return str(request.param)


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables and no rows, to be copied."""
    path = tmp_path_factory.mktemp("template") / "skiptune.db"
    init_database(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def template_server(postgres_server: Server) -> Server:
    """A server with a database `TEMPLATE`, with all tables and no rows, to be copied."""
    postgres_server.create_database(TEMPLATE)
    init_database(postgres_server.url(TEMPLATE)).close()
    return postgres_server


Fresh = Callable[[str], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def fresh(request: pytest.FixtureRequest) -> Fresh:
    """Make a database of a kind, with all tables and no rows, for the length of a block."""

    @contextmanager
    def block(backend: str) -> Iterator[str]:
        if backend == "postgresql":
            with fresh_database(request.getfixturevalue("template_server"), TEMPLATE) as url:
                yield url
            return
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(request.getfixturevalue("empty_file"), f"{folder}/skiptune.db")
            yield f"sqlite:///{folder}/skiptune.db"

    return block


@pytest.fixture
def url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a fresh database with all tables; SQLite's is `tmp_path / "skiptune.db"`."""
    if backend == "postgresql":
        with fresh_database(request.getfixturevalue("template_server"), TEMPLATE) as fresh_url:
            yield fresh_url
        return
    shutil.copy(request.getfixturevalue("empty_file"), tmp_path / "skiptune.db")
    yield f"sqlite:///{tmp_path / 'skiptune.db'}"


@pytest.fixture
def empty_url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database without tables; SQLite's file does not exist yet."""
    if backend == "postgresql":
        with fresh_database(request.getfixturevalue("postgres_server")) as fresh_url:
            yield fresh_url
        return
    yield f"sqlite:///{tmp_path / 'skiptune.db'}"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """A fresh open database with all tables."""
    with open_database(url) as opened:
        yield opened


@pytest.fixture
def study(database: Database) -> ledger.Study:
    """A study without evaluations."""
    return ledger.create_study(database, name="cats", spec={"study": "cats"}, meaning={"seed": 0})


class Add(Protocol):
    """Add an evaluation whose schedule is the given scale."""

    def __call__(
        self, scale: float = 1.0, *, images: int = 500, study_id: str | None = None, **other: Any
    ) -> ledger.Evaluation: ...


@pytest.fixture
def add(database: Database, study: ledger.Study) -> Add:
    """Add evaluations; scale 1 is the baseline."""

    def call(
        scale: float = 1.0, *, images: int = 500, study_id: str | None = None, **other: Any
    ) -> ledger.Evaluation:
        values: dict[str, Any] = {
            "kind": "baseline" if scale == 1.0 else "proposal",
            "label": f"x{scale}",
            "block": "search",
            "series": {"network": "n", "steps": 6},
            "measure": {"extractor": "e"},
            "schedule": {"terms": [] if scale == 1.0 else [{"address": "a", "scale": scale}]},
            "first_seed": 1_000_000,
            "images": images,
            "params": {} if scale == 1.0 else {"skip/a": scale},
        }
        return ledger.add_evaluation(database, study_id or study.id, **(values | other))

    return call


Work = Callable[..., list[leases.Claim]]


@pytest.fixture
def work(database: Database, study: ledger.Study) -> Work:
    """Claim and commit chunks until none is left, or `most` of them."""

    def call(most: int = 1_000_000, *, study_id: str | None = None) -> list[leases.Claim]:
        done: list[leases.Claim] = []
        while len(done) < most:
            claim = leases.claim_chunk(
                database, study_id or study.id, worker="worker", seconds=60.0
            )
            if claim is None:
                break
            leases.commit_chunk(database, claim, array=f"{len(done):064x}", seconds=2.0, nfe=6.0)
            done.append(claim)
        return done

    return call


def in_threads(url: str, calls: Sequence[Callable[[Database], T]]) -> list[T]:
    """Make all calls at the same time, each with a database of its own, and return the answers."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[Database], T]) -> T:
        with open_database(url) as database:
            barrier.wait(timeout=60)
            return call(database)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


@pytest.fixture
def run_python() -> Callable[..., str]:
    """Run a program in a fresh interpreter and return what it printed."""

    def call(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call
