"""Opening, making and refusing databases; transactions of all or nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text

from bench.postgres import Server
from skiptune.errors import StorageError, UnavailableError, render
from skiptune.storage import database as module
from skiptune.storage import engines, ledger
from skiptune.storage.database import (
    VERSION_TABLE,
    Database,
    init_database,
    open_database,
)
from skiptune.storage.location import parse_url
from tests.storage.conftest import on_postgresql, on_sqlite


def tables(url: str) -> set[str]:
    engine = create_engine(parse_url(url))
    with engine.connect() as connection:
        found = set(inspect(connection).get_table_names())
    engine.dispose()
    return found


def in_four_parts(error: StorageError) -> str:
    [problem] = error.problems
    assert problem.where and problem.expected and problem.found and error.hint
    return render(error)


def test_init_makes_optunas_tables_and_ours(empty_url: str) -> None:
    with init_database(empty_url) as database:
        identity = ledger.database_id(database)
        assert (database.revision(), len(identity)) == (module.REVISIONS[-1], 32)
        assert str(database.optuna_version()).startswith("5.")
    made = tables(empty_url)
    assert {"studies", "trials", "alembic_version"} <= made
    assert {"skiptune_studies", "skiptune_chunks", VERSION_TABLE} <= made
    with init_database(empty_url) as again:
        assert ledger.database_id(again) == identity


def test_init_again_changes_nothing(url: str, database: Database, study: ledger.Study) -> None:
    with init_database(url) as again:
        assert ledger.find_study(again, study.name) == study


def test_processes_that_init_at_once_all_succeed(empty_url: str) -> None:
    """Each of them says which database it has found: there is one."""
    program = (
        "import sys\n"
        "from skiptune.storage import ledger\n"
        "from skiptune.storage.database import open_database\n"
        "from skiptune.storage.optuna_rows import optuna_storage\n"
        "sys.stdin.readline()\n"
        "with open_database(sys.argv[1], create=True) as database:\n"
        "    optuna_storage(database).get_all_studies()\n"
        "    print(database.revision(), ledger.database_id(database))\n"
    )
    count = 4 if empty_url.startswith("postgresql") else 2
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, empty_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0] * count
    assert len(set(printed)) == 1
    assert printed[0].startswith(module.REVISIONS[-1])


@on_postgresql
def test_whoever_inits_waits_for_the_other(
    empty_url: str, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by luck: the second one waits although it is sent into the first one's midst."""
    made: list[Database] = []
    check = module.check_optuna

    def meanwhile(database: Database) -> None:
        monkeypatch.setattr(module, "check_optuna", check)
        thread = threading.Thread(target=lambda: made.append(init_database(empty_url)))
        thread.start()
        made.append(database)
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        deadline = time.monotonic() + 30
        while postgres_server.execute(waiting) != [(1,)]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        threads.append(thread)

    threads: list[threading.Thread] = []
    monkeypatch.setattr(module, "check_optuna", meanwhile)
    with init_database(empty_url) as first:
        threads[0].join()
        _, second = made
        with second:
            assert ledger.database_id(second) == ledger.database_id(first)
    assert postgres_server.execute("SELECT * FROM pg_locks WHERE locktype = 'advisory'") == []


@on_sqlite
def test_the_file_has_a_write_ahead_log(empty_url: str, tmp_path: Path) -> None:
    init_database(empty_url).close()
    connection = sqlite3.connect(tmp_path / "skiptune.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@on_sqlite
def test_pragmas(database: Database) -> None:
    with database.read() as session:
        assert session.scalar(text("PRAGMA synchronous")) == 1
        assert session.scalar(text("PRAGMA foreign_keys")) == 1
        assert session.scalar(text("PRAGMA busy_timeout")) == 30_000
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"


@on_sqlite
def test_write_takes_the_lock_at_its_beginning(database: Database, url: str) -> None:
    """Two writers that both read first would deadlock with deferred transactions."""
    order: list[str] = []
    entered = threading.Event()

    def second() -> None:
        entered.wait()
        with open_database(url) as other, other.write() as session:
            session.execute(text("SELECT count(*) FROM skiptune_studies"))
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with database.write() as session:
        session.execute(text("SELECT count(*) FROM skiptune_studies"))
        entered.set()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_failed_block_stores_nothing(database: Database) -> None:
    with pytest.raises(KeyError), database.write("create_study") as session:
        session.execute(
            text("INSERT INTO skiptune_measures (digest, description) VALUES ('d', '{}')")
        )
        raise KeyError
    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM skiptune_measures")) == 0


def test_a_reader_sees_one_moment(url: str, database: Database, study: ledger.Study) -> None:
    query = text("SELECT count(*) FROM skiptune_studies")
    with open_database(url) as other, database.read() as session:
        assert session.scalar(query) == 1
        ledger.create_study(other, name="dogs", spec={}, meaning={})
        assert session.scalar(query) == 1
    with database.read() as session:
        assert session.scalar(query) == 2


def test_a_closed_database_opens_again(database: Database, study: ledger.Study) -> None:
    database.close()
    assert ledger.find_study(database, "cats") == study
    database.rest()
    database.rest()
    assert ledger.find_study(database, "cats") == study


def test_an_unknown_step_is_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="not a step"), database.write("comit_chunk"):
        pass


def test_its_name_shows_no_password(database: Database) -> None:
    for shown in (database.name, repr(database), str(database)):
        assert "sqlite:///" in shown or "postgresql://postgres:***@" in shown
    if not database.is_sqlite:
        assert "***" not in database.url


@on_sqlite
def test_a_missing_file_is_not_made(empty_url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as raised:
        open_database(empty_url)
    assert "skiptune tune" in in_four_parts(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as raised:
        init_database(f"sqlite:///{tmp_path}/no/skiptune.db")
    assert "folder" in in_four_parts(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("create", [False, True])
def test_a_file_that_is_no_database(tmp_path: Path, create: bool) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"not a database\n" * 100)
    with pytest.raises(StorageError) as raised:
        open_database(f"sqlite:///{path}", create=create)
    assert "file is not a database" in in_four_parts(raised.value)
    assert path.read_bytes() == b"not a database\n" * 100
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("create", [False, True])
def test_a_folder_that_is_no_database(tmp_path: Path, create: bool) -> None:
    with pytest.raises(StorageError) as raised:
        open_database(f"sqlite:///{tmp_path}", create=create)
    assert "unable to open" in in_four_parts(raised.value)


def test_tables_missing(empty_url: str, tmp_path: Path) -> None:
    engine = create_engine(parse_url(empty_url))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE mine (x INTEGER)"))
    engine.dispose()
    with pytest.raises(StorageError) as raised:
        open_database(empty_url)
    assert "without them" in in_four_parts(raised.value)
    assert "skiptune db init" in raised.value.hint
    assert tables(empty_url) == {"mine"}


def test_a_version_table_without_a_row(url: str, database: Database) -> None:
    """As a crash between two versions of Alembic might leave it: not a database of ours."""
    with database.write() as session:
        session.execute(text(f"DELETE FROM {VERSION_TABLE}"))
    with pytest.raises(StorageError, match="without them"):
        open_database(url)


def test_tables_dropped_under_an_open_database(database: Database) -> None:
    with database.write() as session:
        session.execute(text("DROP TABLE skiptune_scores"))
    with pytest.raises(StorageError) as raised:
        ledger.scores(database, "s")
    assert "skiptune_scores" in in_four_parts(raised.value)
    assert "skiptune db init" in raised.value.hint
    assert not isinstance(raised.value, UnavailableError)


def test_a_column_of_a_newer_schema_is_missing(database: Database) -> None:
    with database.write() as session:
        session.execute(text("ALTER TABLE skiptune_studies DROP COLUMN board"))
    with pytest.raises(StorageError) as raised:
        ledger.list_studies(database)
    assert "board" in in_four_parts(raised.value)
    assert "skiptune db upgrade" in raised.value.hint


@on_sqlite
def test_a_locked_database(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(tmp_path / "skiptune.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with open_database(url) as database, pytest.raises(UnavailableError) as raised:
        ledger.create_study(database, name="a", spec={}, meaning={})
    holder.close()
    assert "locked" in in_four_parts(raised.value)


@on_sqlite
def test_a_full_disk(database: Database) -> None:
    with pytest.raises(UnavailableError) as raised, database.write() as session:
        session.execute(text("PRAGMA max_page_count = 1"))
        insert = text("INSERT INTO skiptune_measures VALUES ('d', :value)")
        session.execute(insert, {"value": "x" * 10_000_000})
    assert "full" in in_four_parts(raised.value)
    assert "free some space" in raised.value.hint


@on_sqlite
def test_a_damaged_file(url: str, tmp_path: Path) -> None:
    path = tmp_path / "skiptune.db"
    data = bytearray(path.read_bytes())
    for page in range(1, len(data) // 4096):
        data[page * 4096 : page * 4096 + 100] = b"\xff" * 100
    path.write_bytes(data)
    with pytest.raises(StorageError) as raised, open_database(url) as database:
        ledger.create_study(database, name="a", spec={}, meaning={})
    assert "malformed" in in_four_parts(raised.value)
    assert not isinstance(raised.value, UnavailableError)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_read_only(
    empty_file: Path,
    tmp_path: Path,
    unprivileged: Callable[[], AbstractContextManager[None]],
    what: str,
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    path = folder / "skiptune.db"
    shutil.copy(empty_file, path)
    before = path.read_bytes()
    path.chmod(0o444 if what == "file" else 0o666)
    folder.chmod(0o777 if what == "file" else 0o555)
    with unprivileged(), pytest.raises(StorageError) as raised:
        with open_database(f"sqlite:///{path}", create=True) as database:
            ledger.create_study(database, name="a", spec={}, meaning={})
    folder.chmod(0o755)
    assert "permissions" in in_four_parts(raised.value)
    assert path.read_bytes() == before


# Making one before has imported what root alone may read.
@pytest.mark.usefixtures("empty_file")
def test_a_new_database_in_a_read_only_folder(
    tmp_path: Path, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    with unprivileged(), pytest.raises(StorageError) as raised:
        open_database(f"sqlite:///{folder}/skiptune.db", create=True)
    assert "unable to open" in in_four_parts(raised.value)
    assert list(folder.iterdir()) == []


# Making one before has imported what root alone may read.
@pytest.mark.usefixtures("empty_file")
def test_a_database_below_a_folder_that_may_not_be_searched(
    tmp_path: Path, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    (tmp_path / "theirs" / "below").mkdir(parents=True)
    (tmp_path / "theirs").chmod(0o700 if os.geteuid() == 0 else 0)
    with unprivileged(), pytest.raises(StorageError) as raised:
        open_database(f"sqlite:///{tmp_path}/theirs/below/skiptune.db", create=True)
    (tmp_path / "theirs").chmod(0o700)
    assert "theirs" in in_four_parts(raised.value)


def test_names_with_unusual_characters(tmp_path: Path) -> None:
    folder = tmp_path / "50% of {it} @ home"
    folder.mkdir()
    url = f"sqlite:///{folder / 'skip tune.db'}"
    with init_database(url) as database:
        ledger.create_study(database, name="größe", spec={}, meaning={})
        assert database.name == url
    assert {path.name for path in folder.iterdir()} == {"skip tune.db"}


def test_reading_and_status_load_neither_torch_nor_optuna_nor_alembic(
    url: str, study: ledger.Study, run_python: Callable[..., str]
) -> None:
    program = (
        "import sys\n"
        "from skiptune.storage import ledger, leases, open_database\n"
        "database = open_database(sys.argv[1])\n"
        "study = ledger.require_study(database, 'cats')\n"
        "ledger.progress(database, study.id), ledger.spending(database, study.id)\n"
        "leases.leases(database, study.id)\n"
        "print({'torch', 'optuna', 'alembic', 'numpy'} & sys.modules.keys())\n"
    )
    assert run_python(program, url) == "set()\n"
