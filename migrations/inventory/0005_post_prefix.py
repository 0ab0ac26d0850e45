"""Nothing: 0010 does what it did, since a `pre` migration has come after it, which runs before the rollout."""

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Do nothing."""
