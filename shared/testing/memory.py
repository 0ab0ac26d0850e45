"""A session without a database: it keeps rows in memory, and refuses what is not possible there.

It locks, reads by primary key, adds, deletes and publishes as the real session does; whole sagas are explored on it, in
tens of thousands of worlds. Without a database there are no statements, constraints or triggers: `Trial` tests those.
One suite holds both to the same answers (`tests/unit/services/test_sessions.py`).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import TextClause, inspect
from sqlalchemy.orm import DeclarativeBase

from ..errors import SessionMisused
from ..orm import held
from ..session import Session

Model = TypeVar("Model", bound=DeclarativeBase)
Frozen = frozenset[tuple[type[Any], tuple[tuple[str, Any], ...]]]
"""Rows as values, for comparing worlds."""


class MemorySession(Session):
    """A session on rows in memory. Refuses what primary keys and columns that must not be NULL would refuse."""

    is_active = True

    def __init__(self, rows: Iterable[DeclarativeBase] = ()) -> None:
        # SQLAlchemy's session is not used, so it is not set up.
        self._rows: dict[tuple[type[Any], Any], DeclarativeBase] = {}
        self._added: list[DeclarativeBase] = []
        self._locked: set[str] = set()
        self.collected = []
        self.publisher = None
        for row in rows:
            self._rows[type(row), _key(row)] = row

    def lock(self, model: type[Model], key: Any) -> Model | None:
        row = self._rows.get((model, key))
        if row is not None:
            self._locked.add(held.key(model).text(key))
        return row  # type: ignore[return-value]

    def lock_all(self, model: type[Model], keys: Iterable[Any]) -> None:
        for key in keys:
            self.lock(model, key)

    def get(self, entity: Any, ident: Any, **more: Any) -> Any:
        if more:
            raise SessionMisused(
                f"rows in memory have no session.get(..., {next(iter(more))}=...): use `lock`, or `Trial`"
            )
        return self._rows.get((entity, ident))

    def add(self, instance: object, *, _warn: bool = True) -> None:
        assert isinstance(instance, DeclarativeBase)
        key = _key(instance)
        if self._rows.get((type(instance), key)) is instance:
            return
        assert (type(instance), key) not in self._rows, f"{type(instance).__name__} {key!r} exists already"
        self._rows[type(instance), key] = instance
        self._added.append(instance)
        self._locked.add(held.key(type(instance)).text(key))

    def add_all(self, instances: Iterable[object]) -> None:
        for instance in instances:
            self.add(instance)

    def delete(self, instance: object) -> None:
        row: Any = instance
        self.lock(type(row), _key(row))
        del self._rows[type(row), _key(row)]

    def holds(self, key: str) -> bool:
        return key in self._locked

    def flush(self, objects: Any = None) -> None:
        """Fill in the defaults of new rows. Raises `SessionMisused` for a row that the database would refuse."""
        for row in self._added:
            for column in inspect(type(row)).column_attrs:
                if getattr(row, column.key) is None:
                    setattr(row, column.key, _default(row, column.columns[0]))
        self._added.clear()

    @contextmanager
    def lent(self) -> Iterator[None]:
        yield

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in _KNOWN:
            return super().__getattribute__(name)
        raise SessionMisused(f"rows in memory have no session.{name}: use the fixture `trial`, a real session")

    def frozen(self) -> Frozen:
        """Return all rows as values."""
        return frozenset((type(row), tuple(sorted(values(row).items()))) for row in self._rows.values())


_KNOWN = frozenset({*vars(MemorySession), "collected", "publisher", "publish"})


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


def _key(row: Any) -> Any:
    model: Any = type(row)
    return held.key(model).of(row)


def _default(row: DeclarativeBase, column: Any) -> Any:
    """Return the database's default for a column without a value; None if only the database can know it."""
    if column.default is not None and column.default.is_scalar:
        return column.default.arg
    if column.server_default is None and column.default is None and not column.nullable and not column.primary_key:
        raise SessionMisused(f"{type(row).__name__}.{column.key} was not given, and must not be NULL")
    literal = getattr(column.server_default, "arg", None)
    text = literal.text if isinstance(literal, TextClause) else literal
    known: dict[Any, Any] = {"false": False, "true": True}
    return known.get(text, int(text) if isinstance(text, str) and text.isdecimal() else None)
