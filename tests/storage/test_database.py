"""Opening, making and refusing databases; transactions; masked passwords."""

from __future__ import annotations

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
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from skiptune.errors import StorageError, render
from skiptune.storage import database as module
from skiptune.storage import ledger
from skiptune.storage.database import (
    VERSION_TABLE,
    Database,
    init_database,
    masked_url,
    open_database,
    sqlite_folder,
)


def tables(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    try:
        return {
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        }
    finally:
        connection.close()


def with_version(path: Path, version: str | None) -> None:
    connection = sqlite3.connect(path)
    if version is None:
        connection.execute(f"DROP TABLE {VERSION_TABLE}")
    else:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = ?", (version,))
    connection.commit()
    connection.close()


def in_four_parts(error: StorageError) -> str:
    [problem] = error.problems
    assert problem.where and problem.expected and problem.found and error.hint
    return render(error)


def test_init_makes_optunas_tables_and_ours(database_url: str, tmp_path: Path) -> None:
    init_database(database_url).close()
    made = tables(tmp_path / "skiptune.db")
    assert {"studies", "trials", "alembic_version"} <= made
    assert {"skiptune_studies", "skiptune_chunks", VERSION_TABLE} <= made
    connection = sqlite3.connect(tmp_path / "skiptune.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_init_again_changes_nothing(url: str, database: Database, study: ledger.Study) -> None:
    with init_database(url) as again:
        assert ledger.find_study(again, study.name) == study


def test_processes_that_init_at_once_all_succeed(database_url: str) -> None:
    program = (
        "import sys\n"
        "from skiptune.storage.database import open_database\n"
        "from skiptune.storage.optuna_rows import optuna_storage\n"
        "print(open_database(sys.argv[1], create=True).revision())\n"
        "optuna_storage(sys.argv[1]).get_all_studies()\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, database_url], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    printed = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert printed == [f"{module.REVISIONS[-1]}\n"] * 4


def test_pragmas(database: Database) -> None:
    with database.read() as session:
        assert session.scalar(text("PRAGMA synchronous")) == 1
        assert session.scalar(text("PRAGMA foreign_keys")) == 1
        assert session.scalar(text("PRAGMA busy_timeout")) == 30_000
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"


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


def test_an_unknown_step_is_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="not a step"), database.write("comit_chunk"):
        pass


def test_a_missing_file_is_not_made(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as raised:
        open_database(database_url)
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


def test_tables_missing(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (x)")
    connection.commit()
    connection.close()
    with pytest.raises(StorageError) as raised:
        open_database(f"sqlite:///{path}")
    assert "without them" in in_four_parts(raised.value)
    assert "skiptune tune" in raised.value.hint
    assert tables(path) == {"mine"}


@pytest.mark.parametrize("create", [False, True])
def test_a_newer_schema(url: str, tmp_path: Path, create: bool) -> None:
    with_version(tmp_path / "skiptune.db", "9999")
    with pytest.raises(StorageError) as raised:
        open_database(url, create=create)
    assert "newer schema 9999" in in_four_parts(raised.value)


def test_an_older_schema(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REVISIONS", ("0001", "0002"))
    with pytest.raises(StorageError) as raised:
        open_database(url)
    assert "older schema 0001" in in_four_parts(raised.value)


def test_tables_dropped_under_an_open_database(database: Database, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "skiptune.db")
    connection.execute("DROP TABLE skiptune_turns")
    connection.execute("DROP TABLE skiptune_scores")
    connection.commit()
    connection.close()
    with pytest.raises(StorageError) as raised:
        ledger.scores(database, "s")
    assert "no such table" in in_four_parts(raised.value)


def test_a_locked_database(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(tmp_path / "skiptune.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with open_database(url) as database, pytest.raises(StorageError) as raised:
        ledger.create_study(database, name="a", spec={}, meaning={})
    holder.close()
    assert "locked" in in_four_parts(raised.value)


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
    for above in (folder, *folder.parents[:3]):
        above.chmod(0o755)
    path.chmod(0o444 if what == "file" else 0o666)
    folder.chmod(0o777 if what == "file" else 0o555)
    with unprivileged(), pytest.raises(StorageError) as raised:
        with open_database(f"sqlite:///{path}", create=True) as database:
            ledger.create_study(database, name="a", spec={}, meaning={})
    folder.chmod(0o755)
    assert "permissions" in in_four_parts(raised.value)
    assert path.read_bytes() == before


def test_a_new_database_in_a_read_only_folder(
    tmp_path: Path, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    for above in folder.parents[:3]:
        above.chmod(0o755)
    folder.chmod(0o555)
    with unprivileged(), pytest.raises(StorageError) as raised:
        open_database(f"sqlite:///{folder}/skiptune.db", create=True)
    assert "unable to open" in in_four_parts(raised.value)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "skiptune.db",
        "sqllite:///skiptune.db",
        "postgresql://me:geheim@host/skiptune",
        "mysql+nothing://me:geheim@host/skiptune",
        "me:geheim@host",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "postgresql://me:geheim@host:port/skiptune",
    ],
)
@pytest.mark.parametrize("create", [False, True])
def test_urls_that_name_no_sqlite_file(url: str, create: bool) -> None:
    with pytest.raises(StorageError) as raised:
        open_database(url, create=create)
    assert "geheim" not in in_four_parts(raised.value)
    assert "geheim" not in str(raised.value)
    assert "--storage sqlite:///" in raised.value.hint


@given(
    password=st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=8),
    form=st.sampled_from(["postgresql://me:{}@host:5432/db", "me:{}@host"]),
)
def test_no_password_is_printed(password: str, form: str) -> None:
    secret = f"<{password}>"
    assert secret not in masked_url(form.format(secret))
    assert masked_url(form.format("x")) == form.format("***")


def test_a_password_among_the_parameters_is_masked() -> None:
    masked = masked_url("postgresql://host/db?user=me&password=geheim&sslmode=require")
    assert masked == "postgresql://host/db?user=me&password=***&sslmode=require"


def test_a_path_is_printed_whole() -> None:
    assert masked_url("sqlite:////a:b/c@d.db") == "sqlite:////a:b/c@d.db"


def test_names_with_unusual_characters(tmp_path: Path) -> None:
    folder = tmp_path / "50% of {it} @ home"
    folder.mkdir()
    url = f"sqlite:///{folder / 'skip tune.db'}"
    with init_database(url) as database:
        ledger.create_study(database, name="größe", spec={}, meaning={})
        assert database.name == url
    assert sqlite_folder(url) == folder
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
