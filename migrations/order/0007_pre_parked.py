"""Records that wait are parked with their key: the table comes, and refuses rows while old processes run."""

from shared.revisions import r0006

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the table."""
    r0006.upgrade()
