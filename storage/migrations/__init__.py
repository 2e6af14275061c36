"""Alembic's revisions of our tables; see `skiptune.storage.database.REVISIONS`."""
