"""Alembic migrations of the `skiptune_` tables."""
