from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from sqlalchemy import text

from bench.postgres import Server
from skiptune.errors import StorageError
from skiptune.storage.database import Database, init_database, open_database
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.views.dashboard.files import StoredFiles
from skiptune.views.dashboard.served import Served, study_path
from tests.dashboards import ask, attach, content
from tests.postgres import fresh_database
from tests.views.dashboard.conftest import Studied


def note(database: Database, trial: int, key: str, value: object) -> None:
    """Note something of a trial that has ended, which Optuna itself refuses."""
    with database.write() as session:
        session.execute(
            text(
                "INSERT INTO trial_user_attributes (trial_id, key, value_json)"
                " VALUES (:trial, :key, :value)"
            ),
            {"trial": trial, "key": key, "value": json.dumps(value)},
        )


def together(call: Callable[[], int], threads: int = 12) -> list[int]:
    """Call from many threads at once, as the server does."""
    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(call) for _ in range(2 * threads)]]


def attributes(served: Served) -> set[str]:
    trials = ask(served, "/api/studies/1").json["trials"]
    return {item["key"] for trial in trials for item in trial["user_attrs"]}


def test_the_dashboard_shows_the_studies(studied: Studied) -> None:
    served = studied.served()
    found = ask(served, "/api/studies").json["study_summaries"]
    assert [study["study_name"] for study in found] == ["tiny", "tiny/500", "tiny/confirmed"]
    assert (served.find("tiny"), served.find("nowhere")) == (1, None)
    detail = ask(served, "/api/studies/1").json
    assert len(detail["trials"]) == 7 and detail["best_trials"]
    assert ask(served, study_path(1)).status == 200
    assert ask(served, "/api/studies/1/param_importances").status == 200
    for plot in ("contour", "slice", "parallel_coordinate", "rank", "edf", "timeline"):
        assert ask(served, f"/api/studies/1/plot/{plot}").status == 200


def test_many_ask_at_once(studied: Studied) -> None:
    served = studied.served()
    replies = together(lambda: ask(served, "/api/studies/1").status)
    assert replies == [200] * len(replies)


def test_a_trial_is_read_once(studied: Studied, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    inner = optuna.storages.RDBStorage._get_trials

    def counted(self: object, *arguments: object, **named: object) -> object:
        found = inner(self, *arguments, **named)  # type: ignore[arg-type]
        read.append(len(found))
        return found

    monkeypatch.setattr(optuna.storages.RDBStorage, "_get_trials", counted)
    served = studied.served()
    for _ in range(3):
        assert ask(served, "/csv/1").status == 200
    assert read[0] == 7 and len(read) >= 3 and not any(read[1:])


def test_what_is_noted_of_an_ended_trial_is_seen_after_a_look(studied: Studied) -> None:
    served = studied.served()
    served.look()
    assert "later" not in attributes(served)
    app = served._app
    served.look()
    assert served._app is app  # nothing happened
    note(studied.database, 3, "later", "x")
    served.look()
    assert "later" in attributes(served)
    app = served._app
    served.look()
    assert served._app is app


def test_new_trials_are_no_reason_to_begin_anew(studied: Studied) -> None:
    served = studied.served()
    served.look()
    app = served._app
    study = optuna.load_study(study_name="tiny", storage=optuna_storage(studied.database))
    space = study.trials[0].distributions
    trial = study.ask(space)
    served.look()
    trial.set_user_attr("mine", 1)
    study.tell(trial, 0.5)
    served.look()
    assert served._app is app
    assert len(ask(served, "/api/studies/1").json["trials"]) == 8


def test_writing_is_refused_below_the_guard_too(studied: Studied) -> None:
    before = content(studied.database)
    body = json.dumps({"study_name": "mine", "directions": ["minimize"]}).encode()
    reply = ask(studied.served(), "/api/studies", method="POST", body=body)
    assert (reply.status, reply.json["reason"]) == (403, "This dashboard is read-only")
    assert content(studied.database) == before
    # Without either of them it is written: what `content` compares would show it.
    assert ask(studied.served(edit=True), "/api/studies", method="POST", body=body).status == 201
    assert content(studied.database) != before


def test_health_is_that_of_the_database(studied: Studied) -> None:
    served = studied.served()
    assert served.is_healthy()
    with studied.database.write() as session:
        session.execute(text("DROP TABLE skiptune_alembic_version"))
    assert not served.is_healthy()


def test_optunas_tables_of_another_version_are_refused(studied: Studied) -> None:
    with studied.database.write() as session:
        session.execute(text("UPDATE version_info SET library_version = '4.6.0'"))
    with pytest.raises(StorageError, match=r"Optuna 4\.6\.0"):
        studied.served()


def test_what_was_deleted_while_it_was_shown_is_not_found(studied: Studied) -> None:
    app = studied.served()
    path = attach(studied.url, "tiny", "0" * 64, name="x.png", kind="image/png")
    plot = "/api/studies/1/plot/slice"
    assert (ask(app, path).status, ask(app, plot).status) == (404, 200)
    optuna.delete_study(study_name="tiny", storage=optuna_storage(studied.database))
    for gone in (path, plot, "/api/studies/1", "/csv/1", f"/artifacts/1/{64 * '0'}"):
        assert ask(app, gone).status == 404, gone


def test_a_database_that_cannot_be_read_now_is_said_so(
    studied: Studied, caplog: pytest.LogCaptureFixture
) -> None:
    app = studied.served()
    assert ask(app, "/api/studies/1").status == 200
    with studied.database.write() as session:
        session.execute(text("ALTER TABLE studies RENAME TO away"))
    for path in ("/api/studies", "/api/studies/1", "/csv/1"):
        assert ask(app, path).status == 503, path
    assert ask(app, "/api/studies").json == {"reason": "The database cannot be read now"}
    with studied.database.write() as session:
        session.execute(text("ALTER TABLE away RENAME TO studies"))
    assert ask(app, "/api/studies/1").status == 200
    assert caplog.text == ""


def test_postgresql_is_served_over_one_connection(
    postgres_server: Server, studied: Studied
) -> None:
    with fresh_database(postgres_server) as url:
        init_database(url).close()
        with open_database(url) as database:
            study = optuna.create_study(study_name="s", storage=optuna_storage(database))
            trial = study.ask()
            trial.set_user_attr("a", 1)
            study.tell(trial, 1.0)
            served = Served(database, StoredFiles(studied.store, studied.said.append))
            served.look()
            served.look()
            assert served.is_healthy()
            path = f"/api/studies/{served.find('s')}"
            assert len(ask(served, path).json["trials"]) == 1
            replies = together(lambda: ask(served, path).status)
            assert replies == [200] * len(replies)
            with database.read() as session:
                count = session.scalar(
                    text(
                        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                        " AND application_name = 'skiptune'"
                    )
                )
            assert count == 1
