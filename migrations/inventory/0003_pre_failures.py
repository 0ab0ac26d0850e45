"""What failed is remembered with its place."""

from shared.revisions import r0003

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the library's new column and table."""
    r0003.upgrade()
