"""The library's table of topics that an operator has paused."""

from shared.revisions import r0008

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Create the table of pauses."""
    r0008.upgrade()
