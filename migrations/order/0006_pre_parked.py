"""Records that wait are parked with their key: the table comes, and refuses rows while old processes run."""

from shared.revisions import r0005

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table."""
    r0005.upgrade()
