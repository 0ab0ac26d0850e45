"""The skeleton service's tables."""

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared import Tables


class Base(Tables, DeclarativeBase):
    """The service's own metadata."""


class Skeleton(Base):
    """What is known of one aggregate."""

    __tablename__ = "skeleton"
    __table_args__ = (CheckConstraint("times >= 0", name="skeleton_times"),)

    something_id: Mapped[str] = mapped_column(primary_key=True)
    times: Mapped[int] = mapped_column(comment="how often something was noted about it")
