"""Records that wait are parked with their key: no process of the previous version runs any more."""

from shared.revisions import r0006

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Let the table accept rows."""
    r0006.accept()
