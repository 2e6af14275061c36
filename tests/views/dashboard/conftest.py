"""A studied database for each test, copied from one of the session."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from skiptune.storage.arrays import ArrayStore
from skiptune.storage.database import Database, open_database
from skiptune.views.dashboard.files import StoredFiles
from skiptune.views.dashboard.served import Served
from tests.dashboards import make_study, store_of

CONFIG = {
    "precond": "edm", "sigma_data": 0.5, "img_resolution": 8, "img_channels": 1, "label_dim": 3,
    "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4],
    "dropout": 0.0,
}  # fmt: skip


@dataclass
class Studied:
    """A database with a finished study, and who serves it.

    Arguments:
        url: Of the database.
        database: Open.
        store: Its store.
        said: What was said to a person.
    """

    url: str
    database: Database
    store: ArrayStore
    said: list[str]

    def served(self, *, edit: bool = False) -> Served:
        """The dashboard over it."""
        return Served(self.database, StoredFiles(self.store, self.said.append), edit=edit)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, tiny_study: ModuleType) -> Path:
    """A folder with a finished study."""
    folder = tmp_path_factory.mktemp("studied")
    make_study(folder, tiny_study, CONFIG)
    return folder


@pytest.fixture
def studied(template: Path, tmp_path: Path) -> Iterator[Studied]:
    """A database with a finished study, for one test."""
    folder = tmp_path / "studied"
    shutil.copytree(template, folder)
    url = f"sqlite:///{folder / 'tiny.db'}"
    with open_database(url) as database:
        yield Studied(url, database, store_of(url), [])
