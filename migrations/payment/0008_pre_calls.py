"""The library's tables of calls to third parties."""

from shared.revisions import r0007

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the tables of calls."""
    r0007.upgrade()
