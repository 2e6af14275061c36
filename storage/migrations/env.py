"""What Alembic runs for each command: our tables only, on the connection that it is given."""

from __future__ import annotations

from alembic import context

from skiptune.storage.database import VERSION_TABLE
from skiptune.storage.tables import Table


def _ours(name: str | None, kind: str, _: object) -> bool:
    # Without this, autogenerate would drop Optuna's tables.
    return kind != "table" or name in Table.metadata.tables


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    version_table=VERSION_TABLE,
    include_name=_ours,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
