"""Optuna's dashboard over one of our databases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import optuna_dashboard
from bottle import Bottle

from skiptune.errors import SkiptuneError
from skiptune.storage.database import Database
from skiptune.storage.optuna_attributes import optuna_studies
from skiptune.storage.optuna_rows import optuna_storage
from skiptune.storage.optuna_trials import Ended, ended, is_as_it_was
from skiptune.views.dashboard.files import StoredFiles
from skiptune.views.dashboard.shown import ShownStorage

__all__ = ["Served", "study_path"]

_STUDIES: Final = "/dashboard/studies"


class Served:
    """The dashboard as a WSGI application.

    It reads a trial that has ended once. What is noted of such a trial afterwards is seen by
    `look`, which makes the dashboard anew.

    Arguments:
        database: With tables; Optuna's connections are those of this object.
        files: What it shows beside numbers.
        edit: Let it change what Optuna stores.

    Raises:
        UnavailableError: The server cannot be reached now.
        StorageError: Optuna's tables are missing or of another version.
    """

    def __init__(self, database: Database, files: StoredFiles, *, edit: bool = False) -> None:
        self._database = database
        self._files = files
        self._edit = edit
        self._seen: Ended | None = None
        self._renew()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        return self._app(environ, start_response)

    @property
    def routes(self) -> tuple[tuple[str, str], ...]:
        """Method and rule of everything that the dashboard answers."""
        assert isinstance(self._app, Bottle)
        return tuple((route.method, route.rule) for route in self._app.routes)

    def look(self) -> None:
        """Begin anew where somebody has noted something of a trial that had ended.

        Raises:
            StorageError: The database cannot be read.
        """
        before = self._seen
        # First: what is noted in between is read anew once more than needed, and not missed.
        self._seen = ended(self._database)
        if before is not None and not is_as_it_was(self._database, before):
            self._renew()

    def is_healthy(self) -> bool:
        """Whether the database answers."""
        try:
            return self._database.revision() is not None
        except SkiptuneError:
            return False

    def find(self, name: str) -> int | None:
        """Return the identity of one of Optuna's studies, None where there is none."""
        return optuna_studies(self._database, [name]).get(name)

    def _renew(self) -> None:
        storage = ShownStorage(optuna_storage(self._database), edit=self._edit)
        self._app: WSGIApplication = optuna_dashboard.wsgi(storage, self._files)


def study_path(study_id: int) -> str:
    """Return the path of the page of one of Optuna's studies."""
    return f"{_STUDIES}/{study_id}"
