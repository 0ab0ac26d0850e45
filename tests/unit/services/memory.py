"""A stand-in for the session, in which a whole saga is explored move by move: tens of thousands of worlds, each on rows
in memory. It can lock and add, and refuses everything else; tests of handlers use a real session (`trial.py`).
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from sqlalchemy import inspect
from sqlalchemy.orm import DeclarativeBase

from shared.errors import SessionMisused
from shared.session import Session

Model = TypeVar("Model", bound=DeclarativeBase)
Frozen = frozenset[tuple[type[Any], tuple[tuple[str, Any], ...]]]
"""Rows as values: what one world is compared with another by."""


class MemorySession(Session):
    """What a handler needs of a session, on rows in memory. Refuses what the database's primary keys would refuse."""

    def __init__(self, rows: Iterable[DeclarativeBase] = ()) -> None:
        # Nothing of SQLAlchemy's session is wanted, so it is not set up either.
        self._rows: dict[tuple[type[Any], tuple[Any, ...]], DeclarativeBase] = {}
        self._locked: set[str] = set()
        for row in rows:
            self._rows[type(row), _identity(row)] = row

    def lock(self, model: type[Model], key: object) -> Model | None:
        row = self._rows.get((model, (key,)))
        if row is not None:
            self._locked.add(str(key))
        return row  # type: ignore[return-value]

    def add(self, instance: object, *, _warn: bool = True) -> None:
        assert isinstance(instance, DeclarativeBase)
        identity = _identity(instance)
        assert (type(instance), identity) not in self._rows, f"{identity} exists already"
        self._rows[type(instance), identity] = instance
        self._locked.add(str(identity[0]))

    def add_all(self, instances: Iterable[object]) -> None:
        for instance in instances:
            self.add(instance)

    def holds(self, key: str) -> bool:
        return key in self._locked

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in vars(MemorySession):
            return super().__getattribute__(name)
        raise SessionMisused(f"a world in memory has no session.{name}: use the fixture `trial`, a real session")

    def frozen(self) -> Frozen:
        """Return all rows as values."""
        return frozenset((type(row), tuple(sorted(values(row).items()))) for row in self._rows.values())


def thawed(rows: Frozen) -> MemorySession:
    """Return a session on copies of `rows`."""
    return MemorySession(
        model(**{name: dict(value) if isinstance(value, tuple) else value for name, value in columns})
        for model, columns in rows
    )


def values(row: DeclarativeBase) -> Mapping[str, Any]:
    """Return the columns of a row; a JSON column as pairs, so that it can be hashed."""
    found = {attribute.key: getattr(row, attribute.key) for attribute in inspect(type(row)).column_attrs}
    return {name: tuple(sorted(value.items())) if isinstance(value, dict) else value for name, value in found.items()}


def _identity(row: DeclarativeBase) -> tuple[Any, ...]:
    return tuple(inspect(type(row)).primary_key_from_instance(row))
