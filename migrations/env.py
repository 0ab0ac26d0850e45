"""Alembic's entry: runs the migrations of one service on the connection that `shared.migrating` hands over."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
