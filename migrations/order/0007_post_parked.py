"""Records that wait are parked with their key: no process of the previous version runs any more."""

from shared.revisions import r0005

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Let the table accept rows."""
    r0005.accept()
