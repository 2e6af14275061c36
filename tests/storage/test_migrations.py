"""The migrations make the tables that the code describes, keep every row, and spare Optuna's."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from optuna.storages._rdb.models import BaseModel as OptunaTable
from sqlalchemy import (
    Connection,
    Inspector,
    MetaData,
    NullPool,
    create_engine,
    inspect,
    select,
    text,
)
from sqlalchemy.engine.interfaces import ReflectedColumn

from skiptune.errors import StorageError
from skiptune.storage import database as module
from skiptune.storage import leases, ledger
from skiptune.storage.database import (
    REVISIONS,
    VERSION_TABLE,
    Database,
    init_database,
    open_database,
    upgrade_database,
)
from skiptune.storage.location import parse_url
from skiptune.storage.migrations.upgrade import configuration, upgrade
from skiptune.storage.optuna_rows import create_optuna_tables, optuna_storage
from skiptune.storage.tables import Table
from tests.storage.conftest import on_postgresql, on_sqlite

OLD = Path(__file__).parent / "data" / "schema-0001.db"
"""Made by the version with schema 0001: a finished study `tiny`, and `half-way`, which is not."""

OLDER = {"0001": OLD, "0002": OLD.with_name("schema-0002.db")}
"""Kept databases by their schema; that of 0002: `tiny` is finished, `half-way` is paused."""

Dump = dict[str, list[dict[str, Any]]]


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A connection in a transaction, by an engine without any setting of ours."""
    engine = create_engine(url if "file:" in url else parse_url(url), poolclass=NullPool)
    with engine.begin() as connection:
        yield connection


def schema(url: str) -> dict[str, Any]:
    """Return what each table is made of: columns, indices, constraints."""
    with connected(url) as connection:
        return {name: table for name, table in described(inspect(connection))}


def described(inspector: Inspector) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in inspector.get_table_names():
        columns = {
            (item["name"], str(item["type"]), item["nullable"], default_of(item))
            for item in inspector.get_columns(name)
        }
        indices = [
            (item["name"], item["column_names"], item["unique"])
            for item in inspector.get_indexes(name)
            if "duplicates_constraint" not in item
        ]
        yield (
            name,
            {
                "columns": columns,
                "key": inspector.get_pk_constraint(name),
                "indices": sorted(indices, key=str),
                "unique": sorted(inspector.get_unique_constraints(name), key=str),
                "foreign": sorted(inspector.get_foreign_keys(name), key=str),
            },
        )


def default_of(column: ReflectedColumn) -> str:
    """Return what a column holds by itself, without its type: `'0'::text` is `'0'`."""
    return str(column["default"]).split("::")[0]


def dump(url: str) -> Dump:
    """Return all rows of all tables, sorted."""
    tables = MetaData()
    with connected(url) as connection:
        tables.reflect(connection)
        return {
            name: sorted(
                (dict(row._mapping) for row in connection.execute(select(table))), key=comparable
            )
            for name, table in tables.tables.items()
        }


def comparable(row: dict[str, Any]) -> str:
    return str(sorted(row.items()))


def differences(url: str, *, everything: bool = False) -> list[Any]:
    options: dict[str, Any] = {"compare_type": True, "version_table": VERSION_TABLE}
    if not everything:
        options["include_name"] = lambda name, kind, _: (
            kind != "table" or name in Table.metadata.tables
        )
    with connected(url) as connection:
        context = MigrationContext.configure(connection, opts=options)
        found: list[Any] = compare_metadata(context, Table.metadata)
    return found


def migrate_to(database: Database, revision: str, run: Callable[..., None]) -> None:
    config = configuration()
    with database.migrate() as connection:
        config.attributes["connection"] = connection
        run(config, revision)


def make_old(url: str, schema: str = "0001") -> None:
    """Make a kept database anew, row by row, on a server."""
    create_optuna_tables(url)
    with Database(url) as database:
        migrate_to(database, schema, command.upgrade)
    ours = MetaData()
    # Immutable: nothing is written beside the file, not even for reading.
    file = f"sqlite:///file:{OLDER[schema]}?immutable=1&uri=true"
    with connected(file) as source, connected(url) as target:
        ours.reflect(source, only=lambda name, _: name.startswith("skiptune_"))
        # Optuna's by its own description, which knows that what SQLite keeps as text is a time.
        for table in (*OptunaTable.metadata.sorted_tables, *ours.sorted_tables):
            target.execute(table.delete())
            rows = [dict(row._mapping) for row in source.execute(select(table))]
            if rows:
                target.execute(table.insert(), rows)


@pytest.fixture
def old_url(empty_url: str, backend: str, tmp_path: Path) -> str:
    """The URL of a database of schema 0001 with the rows of `OLD`."""
    if backend == "postgresql":
        make_old(empty_url)
    else:
        shutil.copy(OLD, tmp_path / "skiptune.db")
    return empty_url


@pytest.fixture
def url_of_0002(empty_url: str, backend: str, tmp_path: Path) -> str:
    """The URL of a database of schema 0002 with the rows of the kept one."""
    if backend == "postgresql":
        make_old(empty_url, "0002")
    else:
        shutil.copy(OLDER["0002"], tmp_path / "skiptune.db")
    return empty_url


def test_autogenerate_finds_no_difference(url: str) -> None:
    assert differences(url) == []


def test_autogenerate_would_find_one(url: str, database: Database) -> None:
    with database.write() as session:
        session.execute(text("DROP INDEX ix_skiptune_chunks_array"))
        session.execute(text("ALTER TABLE skiptune_studies ADD COLUMN colour TEXT"))
    assert {difference[0] for difference in differences(url)} == {"add_index", "remove_column"}
    assert "remove_table" in {item[0] for item in differences(url, everything=True)}


def test_migrations_make_what_the_tables_describe(
    url: str, empty_url: str, tmp_path: Path
) -> None:
    """`url` was migrated; `empty_url` is the same file, or another database of the server."""
    other = f"sqlite:///{tmp_path}/described.db" if "sqlite" in url else empty_url
    with connected(other) as connection:
        Table.metadata.create_all(connection)
    migrated, made = schema(url), schema(other)
    assert made.keys() == {name for name in migrated if "skiptune" in name} - {VERSION_TABLE}
    assert {name: migrated[name] for name in made} == made


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
    url: str, database: Database, study: ledger.Study
) -> None:
    optuna.create_study(study_name="theirs", storage=optuna_storage(database)).ask()
    before = schema(url)
    migrate_to(database, "base", command.downgrade)
    left = schema(url)
    assert left == {k: v for k, v in before.items() if "skiptune" not in k or k == VERSION_TABLE}
    assert database.revision() is None
    kept = optuna.load_study(study_name="theirs", storage=optuna_storage(database))
    assert len(kept.trials) == 1
    upgrade(database)
    assert schema(url) == before
    assert ledger.list_studies(database) == ()


def test_one_step_down_and_up_again_keeps_what_0001_knew(old_url: str) -> None:
    before = dump(old_url)
    upgrade_database(old_url)
    with open_database(old_url) as database:
        migrate_to(database, "0001", command.downgrade)
    assert dump(old_url) == before


def test_tables_are_added_beside_an_optuna_study_that_exists(empty_url: str) -> None:
    create_optuna_tables(empty_url)
    storage = optuna.storages.RDBStorage(parse_url(empty_url).render_as_string(False))
    study = optuna.create_study(study_name="theirs", storage=storage)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    storage.remove_session()
    storage.engine.dispose()
    before, rows = schema(empty_url), dump(empty_url)
    with init_database(empty_url) as database:
        assert ledger.list_studies(database) == ()
        after, kept = schema(empty_url), dump(empty_url)
        assert {name: after[name] for name in before} == before
        assert {name: kept[name] for name in rows} == rows
        theirs = optuna.load_study(study_name="theirs", storage=optuna_storage(database))
        assert [trial.number for trial in theirs.trials] == [0, 1, 2]


# From 0001 on.


def test_an_upgrade_keeps_every_row_and_value(old_url: str) -> None:
    with pytest.raises(StorageError, match="older schema 0001") as raised:
        open_database(old_url)
    assert "skiptune db upgrade" in raised.value.hint
    before = dump(old_url)
    assert len(before["skiptune_chunks"]) == 17 and len(before["trials"]) == 10
    assert upgrade_database(old_url) == ("0001", REVISIONS[-1])
    after = dump(old_url)
    assert after.pop(VERSION_TABLE) == [{"version_num": REVISIONS[-1]}]
    assert after.pop("skiptune_launches") == []
    [identity] = after.pop("skiptune_database")
    assert len(identity["id"]) == 32
    assert before.pop(VERSION_TABLE) == [{"version_num": "0001"}]
    assert after.keys() == before.keys()
    for name, rows in before.items():
        kept = [{key: row[key] for key in rows[0]} for row in after[name]] if rows else after[name]
        assert sorted(kept, key=comparable) == rows
    fresh: dict[str, dict[str, Any]] = {
        "skiptune_studies": {
            "files": "[]",
            "board": "{}",
            "most_evaluations": None,
            "most_images": None,
            "most_seconds": None,
        },
        "skiptune_evaluations": {"projected": 0},
        "skiptune_scores": {"projected": 0, "place": 0},
        "skiptune_chunks": {"doubled_fence": 0, "format": 1, "renewed": None},
    }
    for name, rows in after.items():
        added = fresh.get(name, {})
        for row in rows:
            assert row.keys() - (before[name][0] if before[name] else row).keys() == added.keys()
            assert {key: row[key] for key in added} == added
    assert differences(old_url) == []
    # Said again, nothing happens.
    assert upgrade_database(old_url) == (REVISIONS[-1], REVISIONS[-1])
    assert dump(old_url)["skiptune_database"] == [identity]


def test_an_upgrade_from_0002_adds_the_place_of_a_score(url_of_0002: str) -> None:
    before = dump(url_of_0002)
    assert len(before["skiptune_chunks"]) == 17 and len(before["skiptune_scores"]) == 17
    assert upgrade_database(url_of_0002) == ("0002", REVISIONS[-1])
    after = dump(url_of_0002)
    assert [score.pop("place") for score in after["skiptune_scores"]] == [0] * 17
    assert sorted(after["skiptune_scores"], key=comparable) == before["skiptune_scores"]
    assert [chunk.pop("renewed") for chunk in after["skiptune_chunks"]] == [None] * 17
    assert sorted(after["skiptune_chunks"], key=comparable) == before["skiptune_chunks"]
    for name in before.keys() - {VERSION_TABLE, "skiptune_scores", "skiptune_chunks"}:
        assert after[name] == before[name]
    assert differences(url_of_0002) == []
    with open_database(url_of_0002) as database:
        study = ledger.require_study(database, "half-way")
        assert (study.state, study.budget.images) == ("paused", 9000)
        tiny = ledger.require_study(database, "tiny")
        assert ledger.untold(database, tiny.id) == ()
        assert {score.place for score in ledger.scores(database, tiny.id)} == {0}


def test_one_step_down_drops_what_0002_has_no_place_for(url_of_0002: str) -> None:
    before = dump(url_of_0002)
    upgrade_database(url_of_0002)
    with open_database(url_of_0002) as database:
        study = ledger.require_study(database, "tiny")
        first = ledger.scores(database, study.id)[0]
        ledger.put_score(
            database,
            first.evaluation_id,
            level=first.level,
            metric="KID",
            reference="r",
            images=250,
            value=1.0,
            standard_error=0.1,
            place=1000,
        )
        migrate_to(database, "0002", command.downgrade)
    assert dump(url_of_0002) == before


@on_postgresql
def test_the_rows_are_the_same_on_both(old_url: str, tmp_path: Path) -> None:
    """What the server holds after its migration is what the file holds after its own."""
    shutil.copy(OLD, tmp_path / "other.db")
    file = f"sqlite:///{tmp_path}/other.db"
    for url in (old_url, file):
        upgrade_database(url)
    found, expected = dump(old_url), dump(file)
    assert len(found.pop("skiptune_database")) == len(expected.pop("skiptune_database")) == 1
    assert found == expected


def test_work_goes_on_after_an_upgrade(old_url: str) -> None:
    upgrade_database(old_url)
    with open_database(old_url) as database:
        study = ledger.require_study(database, "half-way")
        assert (study.budget, study.files, study.board) == (ledger.Budget(), (), {})
        [lease] = leases.leases(database, study.id)
        assert lease.worker == "node7:4711:892201"
        leases.break_lease(database, lease)
        claim = leases.claim_chunk(database, study.id, worker="heir", seconds=60.0)
        assert claim is not None
        assert (claim.chunk_id, claim.fence, claim.kind) == (lease.chunk_id, 2, "baseline")
        leases.commit_chunk(database, claim, array="1" * 64, seconds=1.0, nfe=6.0)
        assert leases.claim_chunk(database, study.id, worker="heir", seconds=60.0) is None
        [rung] = ledger.ready_rungs(database, study.id)
        assert rung.evaluation_id == claim.evaluation_id

        tiny = ledger.require_study(database, "tiny")
        assert ledger.spending(database, tiny.id).images == 250 * 13
        assert len(ledger.untold(database, tiny.id)) == 7
        theirs = optuna.load_study(study_name="tiny", storage=optuna_storage(database))
        scored = {
            (item.evaluation.number, item.score.level)
            for item in ledger.untold(database, tiny.id)
            if item.score is not None
        }
        assert len({number for number, level in scored if level == 0}) == len(theirs.trials)
        assert theirs.best_trial.user_attrs["skiptune:schedule"]


def test_a_newer_schema_is_refused(url: str, database: Database) -> None:
    with database.write() as session:
        session.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    before = dump(url)
    for refused in (open_database, init_database, upgrade_database):
        with pytest.raises(StorageError, match="newer schema 9999") as raised:
            refused(url)
        assert "pip install -U skiptune" in raised.value.hint
    assert dump(url) == before


def test_an_upgrade_needs_tables_of_ours(empty_url: str, tmp_path: Path) -> None:
    create_optuna_tables(empty_url)
    with pytest.raises(StorageError, match="without them") as raised:
        upgrade_database(empty_url)
    assert "skiptune db init" in raised.value.hint


def test_an_upgrade_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        upgrade_database(f"sqlite:///{tmp_path}/skiptune.db")
    assert list(tmp_path.iterdir()) == []


def made_by_optuna_4(url: str) -> None:
    with connected(url) as connection:
        connection.execute(text("UPDATE version_info SET library_version = '4.9.0'"))


def test_a_database_of_optuna_4_is_left_as_it_is(empty_url: str) -> None:
    create_optuna_tables(empty_url)
    made_by_optuna_4(empty_url)
    before = dump(empty_url), schema(empty_url)
    with pytest.raises(StorageError, match=r"Optuna 4\.9\.0") as raised:
        init_database(empty_url)
    assert "--storage" in raised.value.hint
    assert (dump(empty_url), schema(empty_url)) == before


def test_a_database_that_optuna_4_shared_is_not_upgraded(old_url: str) -> None:
    made_by_optuna_4(old_url)
    before = dump(old_url)
    with pytest.raises(StorageError, match=r"Optuna 4\.9\.0"):
        upgrade_database(old_url)
    assert dump(old_url) == before


def test_an_upgrade_that_fails_leaves_the_schema_as_it_was(
    old_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rows = schema(old_url), dump(old_url)
    monkeypatch.setattr(module, "fail_point", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        upgrade_database(old_url)
    assert (schema(old_url), dump(old_url)) == (before, rows)


@on_sqlite
def test_the_fixture_is_what_it_says(old_url: str, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "skiptune.db")
    states = connection.execute(
        "SELECT state, count(*) FROM skiptune_chunks GROUP BY state ORDER BY state"
    ).fetchall()
    connection.close()
    assert states == [("done", 14), ("leased", 1), ("open", 1), ("poisoned", 1)]
