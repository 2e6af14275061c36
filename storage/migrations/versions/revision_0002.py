"""Let many workers share a study: budgets, files by content, what Optuna was told, formats.

Revision 0002. Every column has a value for the rows that are there; no row is lost. What was told
to Optuna before is told again, which changes nothing.
"""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

from skiptune.storage.tables import clock

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS: tuple[tuple[str, str, TypeEngine[Any], str | None], ...] = (
    ("skiptune_studies", "files", sa.Text(), "[]"),
    ("skiptune_studies", "board", sa.Text(), "{}"),
    ("skiptune_studies", "most_evaluations", sa.Integer(), None),
    ("skiptune_studies", "most_images", sa.BigInteger(), None),
    ("skiptune_studies", "most_seconds", sa.Double(), None),
    ("skiptune_evaluations", "projected", sa.Integer(), "0"),
    ("skiptune_scores", "projected", sa.Integer(), "0"),
    ("skiptune_chunks", "doubled_fence", sa.Integer(), "0"),
    ("skiptune_chunks", "format", sa.Integer(), "1"),
)
_KINDS = "ix_skiptune_evaluations_study_id_kind_block"
_UNPROJECTED = "ix_skiptune_scores_unprojected"


def upgrade() -> None:
    """Add the columns and the database's identity."""
    identity = op.create_table(
        "skiptune_database",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_skiptune_database"),
    )
    op.execute(identity.insert().values(id=uuid.uuid4().hex, created=clock()))
    for table, name, kind, default in _COLUMNS:
        column = sa.Column(name, kind, nullable=default is None, server_default=default)
        op.add_column(table, column)
    op.create_index(_KINDS, "skiptune_evaluations", ["study_id", "kind", "block"])
    op.create_index(
        _UNPROJECTED,
        "skiptune_scores",
        ["evaluation_id"],
        sqlite_where=sa.text("projected = 0"),
        postgresql_where=sa.text("projected = 0"),
    )


def downgrade() -> None:
    """Drop what `upgrade` added."""
    op.drop_index(_UNPROJECTED, "skiptune_scores")
    op.drop_index(_KINDS, "skiptune_evaluations")
    for table, name, _, _ in reversed(_COLUMNS):
        op.drop_column(table, name)
    op.drop_table("skiptune_database")
