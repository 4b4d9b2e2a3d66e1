"""What Alembic runs: the migrations, on the connection and in the transaction of `database.py`."""

from alembic import context

from sampan.server.storage.database import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True
)
context.run_migrations()
