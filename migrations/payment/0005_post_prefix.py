"""Nothing: what it did is done by 0008, since a `pre` migration has come after it, and it would run before the rollout."""

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Do nothing."""
