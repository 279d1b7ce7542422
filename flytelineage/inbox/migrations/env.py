"""Alembic's entry: runs on the connection that flytelineage.inbox.database hands over."""

from alembic import context

from flytelineage.inbox.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
