"""A worker's role in PostgreSQL needs rights on rows alone: it makes no tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from bench.postgres import Server
from skiptune.search.study import open_stored, open_study
from skiptune.search.worker import Limits
from skiptune.storage.database import init_database
from tests.postgres import fresh_database
from tests.search.conftest import Tiny, crew_member

ROLE: Final = "skiptune_worker"
DOCS: Final = Path(__file__).parents[2] / "docs" / "workers.md"


def documented_rights() -> list[str]:
    """Return the statements that the documentation gives, without those that make the role."""
    text = DOCS.read_text(encoding="utf-8").partition("```sql\n")[2].partition("```")[0]
    return [line for line in text.splitlines() if line.startswith("GRANT")]


@contextmanager
def as_worker(server: Server, url: str) -> Iterator[str]:
    """The URL of a role that has the documented rights, for the length of a block."""
    role, password = sql.Identifier(ROLE), "only-for-this-test"
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, password))
        try:
            for statement in documented_rights():
                owner.execute(statement.encode())
            yield (
                make_url(url)
                .set(username=ROLE, password=password)
                .render_as_string(hide_password=False)
            )
        finally:
            owner.execute(sql.SQL("DROP OWNED BY {}").format(role))
            owner.execute(sql.SQL("DROP ROLE {}").format(role))


def test_a_role_with_rights_on_rows_makes_and_works_on_a_study(
    tiny: Tiny, postgres_server: Server
) -> None:
    assert len(documented_rights()) == 2
    with fresh_database(postgres_server) as url, tiny.elsewhere(url) as there:
        with as_worker(postgres_server, url) as worker_url:
            spec = there.spec(search__evaluations=1, search__rungs=[250])
            study = open_study(spec, storage=worker_url, artifacts=there.artifacts)
            try:
                assert crew_member(study, "a", limits=Limits(until_done=True)).run() == "complete"
            finally:
                study.database.close()
            again = open_stored("tiny", storage=worker_url, artifacts=there.artifacts)
            again.database.close()
            # Tables are there, so there is nothing to make; to change them takes the owner.
            init_database(worker_url).close()
            with psycopg.connect(worker_url.replace("+psycopg", "")) as worker:
                for statement in (
                    "CREATE TABLE skiptune_more (id int)",
                    "ALTER TABLE skiptune_chunks ADD COLUMN more int",
                    "DROP TABLE skiptune_chunks",
                ):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        worker.execute(statement.encode())
                    worker.rollback()
