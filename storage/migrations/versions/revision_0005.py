"""Remember when a lease was last renewed: a worker's last sign of life.

Revision 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of leases taken before nothing is known."""
    op.add_column("skiptune_chunks", sa.Column("renewed", sa.Double(), nullable=True))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("skiptune_chunks", "renewed")
