"""A database with tables but no rows, a study in it, and ways to add evaluations and do chunks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from skiptune.storage import leases, ledger
from skiptune.storage.database import Database, init_database, open_database


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables and no rows, to be copied."""
    path = tmp_path_factory.mktemp("template") / "skiptune.db"
    init_database(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def url(empty_file: Path, tmp_path: Path) -> str:
    """The URL of a fresh database with all tables."""
    shutil.copy(empty_file, tmp_path / "skiptune.db")
    return f"sqlite:///{tmp_path / 'skiptune.db'}"


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


@pytest.fixture
def unprivileged() -> Callable[[], AbstractContextManager[None]]:
    """Run a block without root's right to write everywhere; elsewhere nothing changes."""

    @contextmanager
    def block() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return block


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
