"""What tests of the dashboard share: a studied database, files in its store, and requests."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from wsgiref.types import WSGIApplication
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from PIL import Image
from safetensors.torch import save_file

from skiptune.sampling.networks import build
from skiptune.search.tune import tune
from skiptune.storage.arrays import ArrayStore
from skiptune.storage.database import Database, open_database
from skiptune.storage.optuna_rows import optuna_storage
from tests.search import made_up

__all__ = ["Reply", "ask", "attach", "content", "make_study", "picture", "store_of"]


def make_study(folder: Path, tiny_study: ModuleType, config: Mapping[str, Any]) -> str:
    """Tune the tiny study with images that are made up; return the URL of its database."""
    network = build(config)
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    metadata = {"skiptune.network": json.dumps(dict(config))}
    save_file(tensors, folder / "tiny.safetensors", metadata=metadata)
    made_up.write_reference(folder, tiny_study)
    url = f"sqlite:///{folder / 'tiny.db'}"
    with pytest.MonkeyPatch.context() as patch:
        made_up.replace(patch.setattr)
        patch.setattr("skiptune.search.worker.POLL_SECONDS", (0.01, 0.05))
        tune(tiny_study.spec(folder, search__sampler="random"), storage=url)
    return url


def picture(kind: str = "PNG") -> bytes:
    """A red picture of 24 x 16 pixels."""
    whole = io.BytesIO()
    Image.new("RGB", (24, 16), (200, 30, 30)).save(whole, kind)
    return whole.getvalue()


def attach(url: str, study: str, digest: str, *, name: str, kind: str, trial: int = 0) -> str:
    """Note a file at a trial as the dashboard reads it; return its path there."""
    with open_database(url) as database:
        storage = optuna_storage(database)
        found = optuna.load_study(study_name=study, storage=storage)
        key = storage.get_trial_id_from_study_id_trial_number(found._study_id, trial)
        entry = {"artifact_id": digest, "filename": name, "mimetype": kind, "encoding": None}
        storage.set_study_system_attr(
            found._study_id, f"dashboard:artifacts:{key}:{digest}", json.dumps(entry)
        )
        return f"/artifacts/{found._study_id}/{key}/{digest}"


def store_of(url: str) -> ArrayStore:
    """The store beside a SQLite database."""
    return ArrayStore(Path(url.removeprefix("sqlite:///")).parent / "skiptune-artifacts")


def content(database: Database) -> str:
    """All rows of a SQLite database, as one text."""
    path = database.url.removeprefix("sqlite:///")
    connection = sqlite3.connect(path)
    try:
        return "\n".join(connection.iterdump())
    finally:
        connection.close()


@dataclass(frozen=True)
class Reply:
    """What came back.

    Arguments:
        status: Code.
        headers: By name in lower case; the last one counts.
        body: Bytes.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as plain data."""
        return json.loads(self.body)


def ask(
    app: WSGIApplication,
    path: str,
    *,
    method: str = "GET",
    body: bytes = b"",
    query: str = "",
    **headers: Any,
) -> Reply:
    """Send a request; headers as `Sec_Fetch_Site="none"`, the host is 127.0.0.1:8080."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_TYPE": headers.pop("Content_Type", "application/json"),
        "CONTENT_LENGTH": headers.pop("length", str(len(body))),
        "wsgi.input": io.BytesIO(body),
        "HTTP_HOST": "127.0.0.1:8080",
    }
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    setup_testing_defaults(environ)
    said: list[Any] = []

    def start(status: str, found: list[tuple[str, str]], *rest: Any) -> Any:
        said[:] = [status, found]
        return lambda data: None

    parts = app(environ, start)
    try:
        whole = b"".join(parts)
    finally:
        getattr(parts, "close", lambda: None)()
    return Reply(int(said[0].split()[0]), {name.lower(): value for name, value in said[1]}, whole)
