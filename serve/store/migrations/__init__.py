"""Alembic's environment. Run by `serve.store.migrate`, never by hand."""
