"""Bring a database to the newest revision of our schema, in one transaction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config

if TYPE_CHECKING:
    from skiptune.storage.database import Database

__all__ = ["configuration", "upgrade"]


def configuration() -> Config:
    """Return Alembic's configuration for our scripts; there is no ini file."""
    config = Config()
    # ConfigParser reads a percent sign as the start of an interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(database: Database) -> None:
    """Run the revisions that are missing. A crash leaves the schema as it was.

    Raises:
        StorageError: The database cannot be written.
    """
    config = configuration()
    with database.migrate() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
