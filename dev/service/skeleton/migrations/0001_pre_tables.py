"""The first tables of the skeleton service, and the library's."""

import sqlalchemy as sa
from alembic import op

from shared.revisions import r0004, r0005, r0006, r0007, r0008

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything."""
    r0004.create()
    r0005.upgrade()
    r0006.create()
    r0007.upgrade()
    r0008.upgrade()
    op.create_table(
        "skeleton",
        sa.Column("something_id", sa.Text, primary_key=True),
        sa.Column("times", sa.BigInteger, nullable=False, comment="how often something was noted about it"),
        sa.CheckConstraint("times >= 0", name="skeleton_times"),
    )
