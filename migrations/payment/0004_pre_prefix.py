"""The library's tables get the prefix `exactly_once_`; their old names become views, for the processes that run."""

from shared.revisions import r0004

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Rename the library's tables."""
    r0004.upgrade()
