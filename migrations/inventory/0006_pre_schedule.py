"""Events can be scheduled."""

from shared.revisions import r0005

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the library's new table."""
    r0005.upgrade()
