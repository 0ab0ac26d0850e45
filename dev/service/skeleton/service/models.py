"""The skeleton service's tables."""

from sqlalchemy import BigInteger, CheckConstraint, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The service's own metadata."""

    # Nothing is read back after an insert: whole batches are written without waiting for each row.
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012 (SQLAlchemy's own name and type)


class Skeleton(Base):
    """What is known of one aggregate."""

    __tablename__ = "skeleton"
    __table_args__ = (CheckConstraint("times >= 0", name="skeleton_times"),)

    something_id: Mapped[str] = mapped_column(Text, primary_key=True)
    times: Mapped[int] = mapped_column(BigInteger, comment="how often something was noted about it")
