"""Let a rung have several scores: further objectives, constraints, what is measured beside.

Revision 0003. A score that is there is of its study's one objective, which is place 0.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the place of a score."""
    op.add_column(
        "skiptune_scores", sa.Column("place", sa.Integer(), server_default="0", nullable=False)
    )


def downgrade() -> None:
    """Drop what `upgrade` added, and the scores that 0002 has no place for."""
    op.execute("DELETE FROM skiptune_scores WHERE place <> 0")
    op.drop_column("skiptune_scores", "place")
