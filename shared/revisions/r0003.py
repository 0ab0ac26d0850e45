"""The library's tables, third release: what failed is remembered with the place where it failed, and may be
dismissed.

Old code goes on as before on this schema: it knows neither the columns nor the tables, and writes none. Frozen with
the release, like `r0001`.
"""

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Add to the dead letters where the handler failed and whether they are dismissed; and tables of records
    that ended a process, and of what a process is about to try.
    """
    op.add_column(
        "dead_letter", sa.Column("traceback", sa.Text, comment="frames, those of the service first; no values")
    )
    op.add_column(
        "dead_letter",
        sa.Column(
            "dismissed_at",
            sa.DateTime(timezone=True),
            comment="when it was decided that it shall never be handled",
        ),
    )
    op.add_column("dead_letter", sa.Column("dismissed_by", sa.BigInteger, comment="the decision"))
    for name, column, where in (
        ("dead_letter_open", "id", "redriven_at IS NULL AND dismissed_at IS NULL"),
        ("dead_letter_redriven", "redriven_at", "redriven_at IS NOT NULL"),
        ("dead_letter_dismissed", "dismissed_at", "dismissed_at IS NOT NULL"),
    ):
        op.create_index(name, "dead_letter", [column], postgresql_where=sa.text(where))
    op.create_table(
        "stuck_record",
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("ends", sa.Integer, nullable=False, comment="how many processes the watchdog ended at it, in a row"),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("traceback", sa.Text, nullable=False, comment="where the last one was stuck"),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
        sa.PrimaryKeyConstraint("topic", "partition"),
    )
    op.create_table(
        "attempt",
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False, comment="the first record of the batch that is under way"),
        sa.Column("last", sa.BigInteger, nullable=False, comment="the last one"),
        sa.Column(
            "ends", sa.Integer, nullable=False, comment="processes in a row that began with it alone; 0: not alone"
        ),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
        sa.PrimaryKeyConstraint("topic", "partition"),
    )
