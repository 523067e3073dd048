"""What Alembic runs to migrate: on the open connection that `schema` passes, in its transaction."""

from __future__ import annotations

from alembic import context

from oddlens.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=context.config.attributes["version_table"],
    transactional_ddl=True,  # of SQLite too, as the transaction is begun explicitly
)
with context.begin_transaction():
    context.run_migrations()
