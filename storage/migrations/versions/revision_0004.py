"""Remember launches: which jobs of which executor were started for a study.

Revision 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "skiptune_launches",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("study_id", sa.String(32), nullable=False),
        sa.Column("executor", sa.String(16), nullable=False),
        sa.Column("place", sa.String(255), nullable=False),
        sa.Column("job", sa.String(255), nullable=False),
        sa.Column("workers", sa.Integer(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"],
            ["skiptune_studies.id"],
            name="fk_skiptune_launches_study_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_skiptune_launches"),
        sa.UniqueConstraint(
            "executor", "place", "job", name="uq_skiptune_launches_executor_place_job"
        ),
    )
    op.create_index("ix_skiptune_launches_study_id", "skiptune_launches", ["study_id"])


def downgrade() -> None:
    """Drop the table; the jobs go on."""
    op.drop_table("skiptune_launches")
