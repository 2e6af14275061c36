"""The migrations make the tables that the code describes, and leave Optuna's alone."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import optuna
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from skiptune.storage import ledger
from skiptune.storage.database import REVISIONS, VERSION_TABLE, Database, init_database
from skiptune.storage.migrations.upgrade import configuration, upgrade
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.storage.tables import Table


def schema(path: Path) -> dict[str, str]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    found = dict(rows)
    connection.close()
    return found


def differences(url: str, *, everything: bool = False) -> list[Any]:
    engine = create_engine(url)
    options: dict[str, Any] = {"compare_type": True, "version_table": VERSION_TABLE}
    if not everything:
        options["include_name"] = lambda name, kind, _: (
            kind != "table" or name in Table.metadata.tables
        )
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        found: list[Any] = compare_metadata(context, Table.metadata)
    engine.dispose()
    return found


def test_autogenerate_finds_no_difference(url: str) -> None:
    assert differences(url) == []


def test_autogenerate_would_find_one(url: str, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "skiptune.db")
    connection.execute("DROP INDEX ix_skiptune_chunks_array")
    connection.execute("ALTER TABLE skiptune_studies ADD COLUMN colour TEXT")
    connection.commit()
    connection.close()
    assert {difference[0] for difference in differences(url)} == {"add_index", "remove_column"}
    assert "remove_table" in {item[0] for item in differences(url, everything=True)}


def test_migrations_make_what_the_tables_describe(url: str, tmp_path: Path) -> None:
    described = tmp_path / "described.db"
    engine = create_engine(f"sqlite:///{described}")
    Table.metadata.create_all(engine)
    engine.dispose()
    migrated = schema(tmp_path / "skiptune.db")
    ours = {name for name in migrated if "skiptune" in name} - {VERSION_TABLE}
    assert ours == schema(described).keys()


def test_the_revisions_are_known_without_alembic() -> None:
    scripts = ScriptDirectory.from_config(configuration())
    assert tuple(s.revision for s in scripts.walk_revisions())[::-1] == REVISIONS
    assert scripts.get_current_head() == REVISIONS[-1]


def test_names_fit_postgresql() -> None:
    """PostgreSQL cuts identifiers after 63 bytes, which would make two of them one."""
    tables = Table.metadata.tables.values()
    names = [str(table.name) for table in tables]
    names += [str(constraint.name) for table in tables for constraint in table.constraints]
    names += [str(index.name) for table in tables for index in table.indexes]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 63
    assert all("skiptune_" in name for name in names)


def test_downgrade_takes_ours_alone_and_upgrade_brings_them_back(
    url: str, database: Database, study: ledger.Study, tmp_path: Path
) -> None:
    optuna.create_study(study_name="theirs", storage=optuna_storage(url)).ask()
    before = schema(tmp_path / "skiptune.db")
    config = configuration()
    with database.migrate() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    left = schema(tmp_path / "skiptune.db")
    assert left == {k: v for k, v in before.items() if "skiptune" not in k or k == VERSION_TABLE}
    assert database.revision() is None
    assert len(optuna.load_study(study_name="theirs", storage=optuna_storage(url)).trials) == 1
    upgrade(database)
    assert schema(tmp_path / "skiptune.db") == before
    assert ledger.list_studies(database) == ()


def test_tables_are_added_beside_an_optuna_study_that_exists(
    database_url: str, tmp_path: Path
) -> None:
    storage = optuna.storages.RDBStorage(database_url)
    study = optuna.create_study(study_name="theirs", storage=storage)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    storage.remove_session()
    storage.engine.dispose()
    before = schema(tmp_path / "skiptune.db")
    with init_database(database_url) as database:
        assert ledger.list_studies(database) == ()
    after = schema(tmp_path / "skiptune.db")
    assert {name: after[name] for name in before} == before
    kept = optuna.load_study(study_name="theirs", storage=optuna_storage(database_url))
    assert [trial.number for trial in kept.trials] == [0, 1, 2]
