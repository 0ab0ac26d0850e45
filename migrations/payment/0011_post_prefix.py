"""The old names of the library's tables go: no process of the previous version runs any more."""

from shared.revisions import r0004

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Drop the views, if they are still there."""
    r0004.remove_old_names()
