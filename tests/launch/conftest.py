"""Programs that stand in for workers: shell scripts that write down how they were called."""

from __future__ import annotations

import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from skiptune.launch.executor import Plan
from skiptune.search.launch_section import LaunchSpec
from skiptune.search.spec import load_spec
from skiptune.storage import ledger
from skiptune.storage.database import init_database

Script = Callable[..., Path]

COMPLETE = f"""{sys.executable} - <<'PYTHON'
import sqlite3
database = sqlite3.connect("skiptune.db")
database.execute("UPDATE skiptune_studies SET state = 'complete'")
database.commit()
PYTHON"""
"""Lines of a shell script that end the study of this folder's database."""


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Write an executable shell script of a name into `tmp_path/bin`, and return its path."""

    def write(name: str, body: str) -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return write


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two workers of a study on the CPU."""
    logs = tmp_path / "logs"
    logs.mkdir()
    return Plan(
        study="tiny",
        workers=2,
        device="cpu",
        storage=None,
        artifacts=None,
        group_writable=False,
        spec=LaunchSpec(),
        logs=logs,
    )


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a study `tiny` in it that nobody has begun; no network belongs to it."""
    path = tmp_path_factory.mktemp("template") / "skiptune.db"
    spec = load_spec("fashion", overrides=["study=tiny"])
    with init_database(f"sqlite:///{path}") as database:
        ledger.create_study(database, name="tiny", spec=spec.to_json(), meaning=spec.meaning())
    return path


@pytest.fixture
def created(command: object, template: Path, tmp_path: Path) -> str:
    """The name of a study that was created and not begun; the command runs beside its database."""
    shutil.copy(template, tmp_path / "skiptune.db")
    return "tiny"
