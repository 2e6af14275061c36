"""What every test shares: the device, one thread count, and a database in a fresh folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# A spinning thread pool makes two busy torch processes on two cores run many times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "0")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="torch device of the tests, e.g. cuda")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The torch device on which a test runs its networks."""
    return str(request.config.getoption("--device"))


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """The URL of a SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'skiptune.db'}"
