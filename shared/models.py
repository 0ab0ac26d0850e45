"""What the tables of a service have in common: the types of their columns, and how they are written."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, DateTime, Text
from sqlalchemy.dialects.postgresql import JSONB


class Tables:
    """Put beside `DeclarativeBase` in the base of a service's tables: `class Base(Tables, DeclarativeBase)`.

    `Mapped[str]` is a TEXT then, `Mapped[int]` a BIGINT, `Mapped[datetime]` a TIMESTAMPTZ, and a dict or a list JSONB,
    where a column does not say otherwise.
    """

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        int: BigInteger,
        datetime: DateTime(timezone=True),
        dict[str, int]: JSONB,
        dict[str, str]: JSONB,
        dict[str, Any]: JSONB,
        list[str]: JSONB,
        list[int]: JSONB,
        list[Any]: JSONB,
    }

    # Nothing is read back after an insert: whole batches are written without waiting for each row.
    __mapper_args__: Any = {"eager_defaults": False}  # noqa: RUF012 - as SQLAlchemy has it
