"""What was claimed is remembered, for `audit`."""

from shared.revisions import r0002

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the library's new table."""
    r0002.upgrade()
