"""Connections: how many, what is set on them, and that nothing of it outlives a transaction."""

from __future__ import annotations

import threading
import time

import optuna
import pytest
from sqlalchemy import text

from bench.postgres import Server
from skiptune.errors import StorageError
from skiptune.storage import database as module
from skiptune.storage import end_turn, leases, ledger, take_turn
from skiptune.storage.database import Database, init_database, open_database
from skiptune.storage.engines import OneConnection, make_engine
from skiptune.storage.location import parse_url
from skiptune.storage.optuna_rows import optuna_storage
from tests.storage.conftest import Add, Work, on_postgresql, on_sqlite

pytestmark = pytest.mark.usefixtures("quiet_optuna")


def name_of(database: Database) -> str:
    return str(database.engine.url.database)


def work_a_little(database: Database, study: ledger.Study, add: Add, work: Work) -> None:
    """Do what a worker does: take a turn, ask and tell Optuna, sample, score, rest."""
    theirs = optuna.create_study(study_name="cats", storage=optuna_storage(database))
    for scale in (0.7, 0.8):
        turn = take_turn(database, study.id, task="propose", worker="worker", seconds=60.0)
        assert turn is not None
        trial = theirs.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        made = add(scale, images=250, turn=turn)
        end_turn(database, turn)
        work()
        ledger.put_score(
            database,
            made.id,
            level=0,
            metric="m",
            reference="r",
            images=250,
            value=scale,
            standard_error=0.1,
        )
        theirs.tell(trial, scale)
        ledger.mark_told(database, ledger.untold(database, study.id))
    ledger.progress(database, study.id), ledger.spending(database, study.id)
    ledger.drop_arrays(database)


class Watch(threading.Thread):
    """Counts connections to a database again and again, by one of its own elsewhere."""

    def __init__(self, server: Server, name: str) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.prepared: set[object] = set()
        self._server, self._name, self._ended = server, name, threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            self.seen.append(self._server.connections(self._name))

    def end(self) -> int:
        """Return the most connections that there were at a time."""
        self._ended.set()
        self.join()
        return max(self.seen)


@on_postgresql
def test_a_process_has_at_most_one_connection(
    database: Database, study: ledger.Study, add: Add, work: Work, postgres_server: Server
) -> None:
    """Also while Optuna's storage is in use, a heartbeat renews, and the worker rests."""
    watch = Watch(postgres_server, name_of(database))
    ended = threading.Event()

    def beat() -> None:
        while not ended.is_set():
            ledger.list_studies(database)
            database.rest()
            time.sleep(0.002)  # or it would never let the other thread have the connection

    heart = threading.Thread(target=beat)
    for thread in (watch, heart):
        thread.start()
    try:
        work_a_little(database, study, add, work)
    finally:
        ended.set()
        heart.join()
        most = watch.end()
    assert most == 1
    assert len(watch.seen) > 20


@on_postgresql
def test_two_threads_would_be_seen(url: str, database: Database, postgres_server: Server) -> None:
    with open_database(url) as other, database.read() as one, other.read() as two:
        for session in (one, two):
            session.execute(text("SELECT 1"))
        assert postgres_server.connections(name_of(database)) == 2


@on_postgresql
def test_a_worker_that_rests_has_none(
    database: Database, study: ledger.Study, add: Add, work: Work, postgres_server: Server
) -> None:
    work_a_little(database, study, add, work)
    assert postgres_server.connections(name_of(database)) == 1
    for _ in range(2):
        database.rest()
        wait_for_connections(postgres_server, name_of(database), 0)
    assert ledger.list_studies(database) == (study,)
    assert postgres_server.connections(name_of(database)) == 1


@on_postgresql
def test_rest_spares_what_another_thread_is_using(
    database: Database, study: ledger.Study, postgres_server: Server
) -> None:
    """And the pool still counts it: it makes no second connection later."""
    pool = database.engine.pool
    assert isinstance(pool, OneConnection)
    with database.read() as session:
        session.execute(text("SELECT 1"))
        database.rest()
        assert session.scalar(text("SELECT 1")) == 1
        assert (pool.checkedout(), pool.overflow()) == (1, 0)
    assert (pool.checkedout(), pool.checkedin(), pool.overflow()) == (0, 1, 0)
    database.rest()
    wait_for_connections(postgres_server, name_of(database), 0)
    assert (pool.checkedout(), pool.checkedin(), pool.overflow()) == (0, 1, 0)
    assert ledger.list_studies(database) == (study,)


def wait_for_connections(server: Server, name: str, count: int) -> None:
    """The server forgets a client milliseconds after it has left."""
    deadline = time.monotonic() + 30
    while server.connections(name) != count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@on_postgresql
def test_nothing_is_left_on_the_connection(
    database: Database, study: ledger.Study, add: Add, work: Work, postgres_server: Server
) -> None:
    """Behind a pool such as PgBouncer the next transaction has another connection."""
    # Often enough for psycopg to prepare by itself.
    for _ in range(8):
        ledger.progress(database, study.id)
    work_a_little(database, study, add, work)
    settings = (
        "SELECT name, setting FROM pg_settings WHERE source = 'session'"
        " AND name NOT IN ('transaction_isolation', 'transaction_read_only')"
        " AND name NOT LIKE '%timeout'"
    )
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT * FROM pg_prepared_statements")).all() == []
        assert connection.execute(text(settings)).all() == []
        connection.rollback()
        raw = connection.connection.dbapi_connection
        assert raw is not None
        for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
            cursor = raw.cursor()
            cursor.execute(f"SHOW {name}")
            assert cursor.fetchone() == ("0",)
        raw.rollback()
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    assert postgres_server.execute(locks) == [(0,)]


@on_postgresql
def test_init_leaves_no_lock_and_no_connection(empty_url: str, postgres_server: Server) -> None:
    init_database(empty_url).close()
    assert postgres_server.execute("SELECT * FROM pg_locks WHERE locktype = 'advisory'") == []
    wait_for_connections(postgres_server, empty_url.rpartition("/")[2], 0)


@on_postgresql
def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(StorageError, match="read-only transaction"), database.read() as session:
        session.execute(text("INSERT INTO skiptune_measures VALUES ('d', '{}')"))
    with database.write() as session:
        session.execute(text("INSERT INTO skiptune_measures VALUES ('d', '{}')"))


@on_postgresql
@pytest.mark.parametrize(
    "default", ["default_transaction_isolation = 'serializable'", "default_transaction_read_only"]
)
def test_transactions_are_ours_whatever_the_server_has_as_default(
    url: str, database: Database, postgres_server: Server, default: str
) -> None:
    name, _, value = default.partition(" = ")
    postgres_server.execute(f'ALTER DATABASE "{name_of(database)}" SET {name} = {value or "on"}')
    with open_database(url) as other:
        with other.write() as session:
            assert session.scalar(text("SHOW transaction_isolation")) == "read committed"
            session.execute(text("INSERT INTO skiptune_measures VALUES ('d', '{}')"))
        with other.read() as session:
            assert session.scalar(text("SHOW transaction_isolation")) == "repeatable read"


@on_postgresql
def test_limits_hold_in_every_transaction(database: Database) -> None:
    for block in (database.read, database.write):
        with block() as session:
            limits = [
                session.scalar(text(f"SHOW {name}_timeout"))
                for name in ("lock", "statement", "idle_in_transaction_session")
            ]
            assert limits == ["30s", "1min", "1min"]


@on_postgresql
def test_options_of_the_url_win(url: str, postgres_server: Server) -> None:
    engine = make_engine(parse_url(f"{url}?application_name=mine&keepalives_idle=7"))
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW application_name")) == "mine"
        raw = connection.connection.dbapi_connection
        parameters = raw.info.get_parameters()  # type: ignore[union-attr]
        assert parameters["keepalives_idle"] == "7"
        assert parameters["tcp_user_timeout"] == "60000"
        assert parameters["connect_timeout"] == "10"
    engine.dispose()


@on_postgresql
def test_times_do_not_depend_on_the_servers_zone(
    database: Database, study: ledger.Study, add: Add, postgres_server: Server
) -> None:
    """The server of these tests lives in a zone that is 5:45 h ahead."""
    assert postgres_server.execute("SHOW TimeZone") != [("UTC",)]
    assert abs(study.created.timestamp() - time.time()) < 60
    add(0.8, images=250)
    leases.claim_chunk(database, study.id, worker="w", seconds=60.0)
    [lease] = leases.leases(database, study.id)
    assert 0 < lease.remaining <= 60


@on_sqlite
def test_sqlite_rests_without_a_word(database: Database, study: ledger.Study) -> None:
    database.rest()
    assert ledger.list_studies(database) == (study,)


def test_the_exports_are_there() -> None:
    import skiptune.storage

    for name in skiptune.storage.__all__:
        assert getattr(skiptune.storage, name) is not None
    assert sorted(skiptune.storage.__all__) == dir(skiptune.storage)
    assert module.REVISIONS[-1] == "0005"
    with pytest.raises(AttributeError):
        skiptune.storage.nothing  # noqa: B018
