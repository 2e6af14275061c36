from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from bench.postgres import CuttingProxy, Mode, Server
from tests.postgres import fresh_database, quick_folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with quick_folder(tmp_path_factory) as folder, Server(folder, fast=True) as running:
        running.create_database("model")
        running.execute("CREATE TABLE numbers (n integer)", database="model")
        yield running


@pytest.fixture
def name(server: Server) -> Iterator[str]:
    """The name of a fresh database with a table `numbers`."""
    with fresh_database(server, "model") as url:
        yield url.rpartition("/")[2]


@pytest.fixture
def proxy(server: Server) -> Iterator[CuttingProxy]:
    with CuttingProxy(server) as running:
        yield running


def numbers(server: Server, name: str) -> list[int]:
    """Return what is committed."""
    return [n for (n,) in server.execute("SELECT n FROM numbers ORDER BY n", database=name)]


def processes(folder: Path) -> list[str]:
    """Return the ids of the processes that are at home in a folder, as PostgreSQL's are."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            home = os.readlink(link)
        except OSError:
            # Ended by now, or another user's.
            continue
        if home.startswith(str(folder)):
            found.append(link.parent.name)
    return found


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# The server.


@pytest.mark.parametrize("way", ["TCP", "socket"])
def test_both_urls_lead_to_the_database(server: Server, name: str, way: str) -> None:
    url = server.url(name) if way == "TCP" else server.socket_url(name)
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT current_database(), inet_server_port()").fetchone()
    assert row == (name, server.port if way == "TCP" else None)


def test_a_wrong_password_or_user_is_refused(server: Server) -> None:
    for url in (
        server.url(password="wrong"),
        server.url(password=""),
        server.url(user="nobody", password=server.password),
        server.socket_url(password="wrong"),
    ):
        with pytest.raises(psycopg.OperationalError, match=r"password authentication|no password"):
            psycopg.connect(url)


def test_any_user_name_password_and_database_name_fit_into_a_url(server: Server) -> None:
    server.execute("""CREATE ROLE "a b@c" LOGIN PASSWORD 'p/:@ %?#' """)
    server.create_database('d/"? %')
    try:
        for url in (server.url, server.socket_url):
            with psycopg.connect(url('d/"? %', user="a b@c", password="p/:@ %?#")) as connection:
                row = connection.execute("SELECT current_user, current_database()").fetchone()
            assert row == ("a b@c", 'd/"? %')
    finally:
        server.drop_database('d/"? %')
        server.execute('DROP ROLE "a b@c"')


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_keeps_port_and_what_was_committed(
    server: Server, name: str, mode: Mode
) -> None:
    url, pid = server.url(name), server.pid
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO numbers VALUES (1)")
        connection.commit()
        connection.execute("INSERT INTO numbers VALUES (2)")

        server.restart(mode)

        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert server.pid not in (None, pid)
    assert server.url(name) == url
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT n FROM numbers").fetchall() == [(1,)]


def test_a_stopped_server_is_gone_until_it_is_started(server: Server, name: str) -> None:
    server.stop()
    server.stop()
    assert server.pid is None
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(server.url(name))
    server.start()
    pid = server.pid
    server.start()
    assert server.pid == pid
    assert numbers(server, name) == []


def test_a_database_is_a_copy_of_its_template_and_of_no_other(server: Server, name: str) -> None:
    server.execute("INSERT INTO numbers VALUES (1)", database=name)
    with fresh_database(server, name) as url:
        copy = url.rpartition("/")[2]
        assert numbers(server, copy) == [1]
        server.execute("INSERT INTO numbers VALUES (2)", database=copy)
        assert numbers(server, name) == [1]
        with fresh_database(server) as empty, psycopg.connect(empty) as connection:
            # Is dropped although somebody is connected.
            found = connection.execute("SELECT to_regclass('numbers')").fetchone()
            assert found == (None,)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


def test_statements_with_parameters_and_without_rows(server: Server, name: str) -> None:
    assert server.execute("INSERT INTO numbers VALUES (%s), (%s)", 1, 2, database=name) == []
    query = "SELECT n, %s::text FROM numbers ORDER BY n"
    assert server.execute(query, "a", database=name) == [(1, "a"), (2, "a")]


def test_clients_are_counted_and_disconnected(server: Server, name: str) -> None:
    assert server.connections(name) == 0
    with fresh_database(server) as other, psycopg.connect(other) as bystander:
        clients = [psycopg.connect(server.url(name)) for _ in range(3)]
        assert server.connections(name) == 3

        assert server.kill_connections(name) == 3

        assert server.connections(name) == 0
        for client in clients:
            with client, pytest.raises(psycopg.OperationalError, match="terminating connection"):
                client.execute("SELECT 1")
        assert bystander.execute("SELECT 1").fetchone() == (1,)
    assert server.kill_connections(name) == 0


def test_settings_arrive_and_the_locale_is_that_of_every_machine(server: Server) -> None:
    for setting, value in {
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "on",
        "max_connections": "200",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
    }.items():
        assert server.execute(f"SHOW {setting}") == [(value,)]


def test_close_leaves_no_process_no_data_and_the_log(tmp_path: Path) -> None:
    # Too long for a socket: it has another place.
    folder = tmp_path / ("long" * 25) / 'a "quoted", name'
    server = Server(folder, max_connections=20, settings={"work_mem": "1MB"})
    assert not folder.exists()
    server.start()
    with psycopg.connect(server.socket_url()) as connection:
        assert server.execute("SHOW fsync") == [("on",)]
        assert server.execute("SHOW max_connections") == [("20",)]
        assert server.execute("SHOW work_mem") == [("1MB",)]
        sockets = Path(connection.info.host)
        assert sockets.is_dir()
        assert str(server.pid) in processes(folder)

        server.close()
        server.close()

        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    wait_until(lambda: processes(folder) == [])
    assert not sockets.exists()
    assert os.listdir(folder) == ["log"]
    assert "database system is ready" in server.log.read_text(encoding="utf-8")


def test_an_exception_within_the_block_ends_the_server(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Server(tmp_path, fast=True) as server:
        assert processes(tmp_path) != []
        raise KeyboardInterrupt
    assert server.pid is None
    wait_until(lambda: processes(tmp_path) == [])


def test_a_server_that_cannot_start_shows_its_log_and_is_gone(
    server: Server, tmp_path: Path
) -> None:
    wrong = Server(tmp_path / "wrong", settings={"work_mem": "plenty"})
    with pytest.raises(RuntimeError, match='invalid value for parameter "work_mem"'):
        wrong.start()
    assert wrong.pid is None
    assert os.listdir(tmp_path / "wrong") == ["log"]

    taken = Server(tmp_path / "taken")
    taken.port = server.port
    with pytest.raises(RuntimeError, match="Address already in use"), taken:
        pass
    assert processes(tmp_path) == []


def test_data_that_was_there_before_stays(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").touch()
    server = Server(tmp_path)
    with pytest.raises(FileExistsError, match="data"):
        server.start()
    server.close()
    assert (tmp_path / "data" / "precious").exists()


def test_a_server_that_was_killed_can_be_started_again(server: Server, name: str) -> None:
    server.execute("INSERT INTO numbers VALUES (1)", database=name)
    assert server.pid is not None
    os.kill(server.pid, 9)
    wait_until(lambda: server.pid is None)
    # The next one refuses the shared memory of children that still live.
    wait_until(lambda: processes(server.log.parent) == [])
    server.start()
    assert numbers(server, name) == [1]


# The proxy.


def test_everything_passes_the_proxy(proxy: CuttingProxy, name: str) -> None:
    text = "x" * 3_000_000
    with psycopg.connect(proxy.url(name)) as connection:
        assert connection.execute("SELECT %s::text", (text,)).fetchone() == (text,)
        rows = connection.execute("SELECT generate_series(1, 20000)").fetchall()
        assert rows == [(n,) for n in range(1, 20_001)]
        with connection.cursor().copy("COPY numbers FROM STDIN") as copy:
            for n in range(1000):
                copy.write_row([n])
        connection.commit()
        assert connection.execute("SELECT count(*) FROM numbers").fetchone() == (1000,)
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(proxy.url(name, password="wrong"))
    assert proxy.commits_cut == 0


def test_a_cancel_request_passes_the_proxy(proxy: CuttingProxy, name: str) -> None:
    with psycopg.connect(proxy.url(name)) as connection:
        timer = threading.Timer(0.2, connection.cancel_safe)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(60)")
        timer.join()


def by_simple_query(connection: psycopg.Connection) -> None:
    connection.commit()


def by_text(connection: psycopg.Connection) -> None:
    connection.execute(" commit ;\n")


def by_parsed_statement(connection: psycopg.Connection) -> None:
    with connection.pipeline():
        connection.execute("SELECT count(*) FROM numbers")
        connection.commit()


def by_prepared_statement(connection: psycopg.Connection) -> None:
    connection.execute("COMMIT", prepare=True)


COMMITS = [by_simple_query, by_text, by_parsed_statement, by_prepared_statement]


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_commit_is_cut_before_or_after_the_server_did_it(
    server: Server,
    proxy: CuttingProxy,
    name: str,
    side: str,
    commit: Callable[[psycopg.Connection], None],
) -> None:
    with psycopg.connect(proxy.url(name)) as connection:
        connection.execute("INSERT INTO numbers VALUES (1)")
        # Prepares the statement where there is one: the second time, only its name is sent.
        commit(connection)
        connection.execute("INSERT INTO numbers VALUES (2)")
        proxy.cut_next_commit(side="before" if side == "before" else "after")
        with pytest.raises(psycopg.OperationalError):
            commit(connection)
        assert connection.broken
        assert proxy.commits_cut == 1
    assert numbers(server, name) == ([1] if side == "before" else [1, 2])

    # Only one was to be cut.
    with psycopg.connect(proxy.url(name)) as connection:
        connection.execute("INSERT INTO numbers VALUES (3)")
    assert numbers(server, name)[-1] == 3
    assert proxy.commits_cut == 1


def test_only_the_connection_that_commits_is_cut(
    server: Server, proxy: CuttingProxy, name: str
) -> None:
    with (
        psycopg.connect(proxy.url(name)) as reader,
        psycopg.connect(proxy.url(name)) as writer,
    ):
        proxy.cut_next_commit(side="before")
        reader.execute("SELECT 1 AS commit")
        reader.rollback()
        writer.execute("LOCK numbers")
        with pytest.raises(psycopg.OperationalError):
            writer.commit()
        # The lock went with the transaction.
        reader.execute("INSERT INTO numbers VALUES (1)")
    assert numbers(server, name) == [1]


def test_a_commit_that_fails_is_cut_all_the_same(
    server: Server, proxy: CuttingProxy, name: str
) -> None:
    server.execute(
        "ALTER TABLE numbers ADD UNIQUE (n) DEFERRABLE INITIALLY DEFERRED", database=name
    )
    with psycopg.connect(proxy.url(name)) as connection:
        connection.execute("INSERT INTO numbers VALUES (1), (1)")
        proxy.cut_next_commit()
        with pytest.raises(psycopg.OperationalError) as caught:
            connection.commit()
        assert not isinstance(caught.value, psycopg.IntegrityError)
    assert numbers(server, name) == []
    assert proxy.commits_cut == 1


def test_all_connections_are_cut(server: Server, proxy: CuttingProxy, name: str) -> None:
    clients = [psycopg.connect(proxy.url(name)) for _ in range(3)]
    with psycopg.connect(server.url(name)) as bystander:
        proxy.cut_all()
        for client in clients:
            with client, pytest.raises(psycopg.OperationalError):
                client.execute("SELECT 1")
        assert bystander.execute("SELECT 1").fetchone() == (1,)
        wait_until(lambda: server.connections(name) == 1)
    with psycopg.connect(proxy.url(name)) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)


def test_new_connections_are_refused_and_old_ones_stay(proxy: CuttingProxy, name: str) -> None:
    with psycopg.connect(proxy.url(name)) as old:
        proxy.refuse(True)
        for _ in range(2):
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(proxy.url(name))
        assert old.execute("SELECT 1").fetchone() == (1,)
        proxy.refuse(False)
        with psycopg.connect(proxy.url(name)) as new:
            assert new.execute("SELECT 1").fetchone() == (1,)


def test_the_proxy_outlives_its_server(server: Server, proxy: CuttingProxy, name: str) -> None:
    with psycopg.connect(proxy.url(name)) as connection:
        server.stop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxy.url(name))
    server.start()
    with psycopg.connect(proxy.url(name)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_closed_proxy_leaves_no_thread_and_no_connection(server: Server, name: str) -> None:
    before = threading.active_count()
    proxy = CuttingProxy(server)
    idle = psycopg.connect(proxy.url(name))
    with psycopg.connect(proxy.url(name)):
        pass

    proxy.close()
    proxy.close()

    assert threading.active_count() == before
    with idle, pytest.raises(psycopg.OperationalError):
        idle.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(proxy.url(name))
    wait_until(lambda: server.connections(name) == 0)
