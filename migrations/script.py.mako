"""${message}."""

import sqlalchemy as sa
from alembic import op

revision = "${up_revision}"
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Say what it does. There is no downgrade: a step back is another step forward."""
    ${upgrades if upgrades else "raise NotImplementedError"}
