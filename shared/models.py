"""The common base of a service's tables: the types of their columns, and how they are written."""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, DateTime, Text
from sqlalchemy.dialects.postgresql import JSONB


class Tables:
    """Combine with `DeclarativeBase` in the base of a service's tables: `class Base(Tables, DeclarativeBase)`.

    `Mapped[str]` is then TEXT, `Mapped[int]` BIGINT, `Mapped[datetime]` TIMESTAMPTZ, and a dict or a list JSONB, unless
    a column sets its own type. A dict or a list in a JSON or array column may be changed in place, at any depth.
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
