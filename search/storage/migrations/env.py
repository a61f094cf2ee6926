"""Alembic runs this file: it migrates over the connection that `search.storage.database.migrate` passes to it."""

from alembic import context

from search.storage.database import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"], version_table=VERSION_TABLE, transactional_ddl=True
)
context.run_migrations()
