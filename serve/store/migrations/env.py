"""What Alembic runs: the migrations on the connection that `serve.store.migrate` hands over."""

from __future__ import annotations

from alembic import context

from serve.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite changes a table by making a new one.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
