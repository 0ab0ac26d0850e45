"""The library's tables of calls to third parties."""

from shared.revisions import r0005

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the tables of calls."""
    r0005.upgrade()
