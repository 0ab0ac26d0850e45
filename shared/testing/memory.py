"""A session without a database: it keeps rows in memory, and refuses what is not possible there.

It locks, reads by primary key, adds, deletes and publishes as the real session does; whole sagas are explored on it, in
tens of thousands of worlds. Without a database there are no statements, relationships, constraints or triggers: `Trial`
tests those. One suite holds both to the same answers (`tests/unit/services/test_sessions.py`).
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple, NoReturn, TypeVar

from sqlalchemy import JSON, Column, TextClause, inspect
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm.attributes import instance_state

from ..errors import SessionMisused
from ..orm import held
from ..scheduling import Change
from ..session import Session

Model = TypeVar("Model", bound=DeclarativeBase)
Frozen = frozenset[tuple[type[Any], tuple[tuple[str, Any], ...]]]
"""Rows as values, for comparing worlds."""


class Document(NamedTuple):
    """The value of a JSON column, as text."""

    text: str


class MemorySession(Session):
    """A session on rows in memory. Refuses what primary keys and columns that must not be NULL would refuse."""

    is_active = True

    def __init__(self, rows: Iterable[DeclarativeBase] = ()) -> None:
        # SQLAlchemy's session is not used, so it is not set up.
        self._rows: dict[tuple[type[Any], Any], DeclarativeBase] = {}
        self._added: list[Any] = []
        """Rows that the next flush completes."""
        self._locked: set[str] = set()
        self.collected = []
        self.publisher = None
        self.changes = {}
        self.scheduler = None
        self.waiting: dict[str, Change] = {}
        """What is scheduled, by name. There is no clock here: nothing becomes due."""
        self.add_all(rows)
        self.flush()
        self._locked.clear()

    def lock(self, model: type[Model], key: Any) -> Model | None:
        row = self._find(model, key)
        if row is not None:
            self._locked.add(held.key(model).text(key))
        return row

    def lock_all(self, model: type[Model], keys: Iterable[Any]) -> None:
        for key in keys:
            self.lock(model, key)

    def get(self, entity: Any, ident: Any, **more: Any) -> Any:
        if more:
            raise SessionMisused(
                f"rows in memory have no session.get(..., {next(iter(more))}=...): use `lock`, or `Trial`"
            )
        row = self._find(entity, ident)
        if row is None or row in self._added:
            self.flush()  # the real session asks the database, after it has written what is new
            row = self._find(entity, ident)
        return row

    def _find(self, model: type[Model], key: Any) -> Model | None:
        """Return the row; refuse a key that the database would refuse, or find in another form."""
        held.values(model, (key,))
        parts = key if len(held.key(model).names) > 1 else (key,)
        for part, column in zip(parts, inspect(model).primary_key, strict=True):
            kind = _python_type(column)
            if kind is not None and isinstance(part, str) is not issubclass(kind, str):
                raise SessionMisused(
                    f"the key of {model.__name__} is of {kind.__name__}, and it was asked for in another form, as "
                    f"{part!r}: give a key as the database gives it back"
                )
        for mapper in inspect(model).self_and_descendants:
            if (row := self._rows.get((mapper.class_, key))) is not None:
                return row  # type: ignore[return-value]
        return None

    def add(self, instance: object, *, _warn: bool = True) -> None:
        row: Any = instance
        if not isinstance(row, DeclarativeBase):
            raise SessionMisused(f"a {type(row).__name__} is no row, so it cannot be added")
        if self._has(row):
            return
        _bind(row)
        self._added.append(row)
        if _key(row) is not None:
            self._keep(row)

    def add_all(self, instances: Iterable[object]) -> None:
        for instance in instances:
            self.add(instance)

    def _has(self, row: Any) -> bool:
        return self._rows.get((type(row), _key(row))) is row or any(new is row for new in self._added)

    def _keep(self, row: Any) -> None:
        key = _key(row)
        if any((model, key) in self._rows for model in held.kinds(_model(row))):
            raise SessionMisused(f"{type(row).__name__} {key!r} exists already")
        self._rows[type(row), key] = row
        self._locked.add(held.key(_model(row)).text(key))

    def delete(self, instance: object) -> None:
        row: Any = instance
        if not self._has(row):
            raise SessionMisused(f"this {type(row).__name__} is no row of the session, so it cannot be deleted")
        if any(new is row for new in self._added):
            self.flush()
        del self._rows[type(row), _key(row)]

    def holds(self, key: str) -> bool:
        return key in self._locked

    def flush(self, objects: Any = None) -> None:
        """Fill in the defaults of new rows. Raises `SessionMisused` for a row that the database would refuse."""
        added, self._added = self._added, []
        for row in added:
            has_key = _key(row) is not None
            for name, column in _columns(_model(row)):
                if getattr(row, name) is None and not (name in row.__dict__ and _takes_none(column)):
                    self._fill(row, name, column)
            if not has_key:
                self._keep(row)
        for row in self._rows.values():
            _refuse_unstorable(row)

    def _fill(self, row: Any, name: str, column: Column[Any]) -> None:
        """Give a new row the default of a column."""
        default: Any = column.default
        if default is not None and default.is_scalar:
            setattr(row, name, default.arg)
        elif default is not None and default.is_callable:
            setattr(row, name, default.arg(None))
        elif column is column.table.autoincrement_column:
            numbers = (getattr(other, name) for (model, _), other in self._rows.items() if model is type(row))
            setattr(row, name, max(numbers, default=0) + 1)
        elif default is not None or column.server_default is not None:
            _default_of_database(row, name, column)
        elif column.nullable:
            setattr(row, name, None)
        else:
            raise _not_given(row, name)

    def settle(self) -> None:
        for change in self.changes.values():
            change.found = self.waiting.pop(change.name, None) is not None
            if change.moment is not None:
                self.waiting[change.name] = change
        self.changes = {}

    @contextmanager
    def lent(self) -> Iterator[None]:
        yield

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in _KNOWN:
            return super().__getattribute__(name)
        raise SessionMisused(f"rows in memory have no session.{name}: use the fixture `trial`, a real session")

    def frozen(self) -> Frozen:
        """Return all rows as values."""
        if self._added:
            self.flush()
        return frozenset((type(row), tuple(sorted(values(row).items()))) for row in self._rows.values())


_OF_SESSION = ("collected", "publisher", "publish", "changes", "scheduler", "schedule", "cancel", "waiting")
_KNOWN = frozenset({*vars(MemorySession), *_OF_SESSION})


class Items(NamedTuple):
    """The value of an array column."""

    items: tuple[Any, ...]


def thawed(rows: Frozen) -> MemorySession:
    """Return a session on copies of `rows`."""
    session = MemorySession()
    for model, columns in rows:
        row = model(**{name: _thawed(value) for name, value in columns})
        _bind(row)
        for name, _ in _columns(_model(row)):
            if name not in row.__dict__:
                _refuse_default(row, name)
        session._rows[model, _key(row)] = row
    return session


def rows_of(session: MemorySession, model: type[Model]) -> list[Model]:
    """Return all rows of a table, unordered."""
    return [row for row in session._rows.values() if isinstance(row, model)]


def values(row: DeclarativeBase) -> Mapping[str, Any]:
    """Return the columns of a row, in a form that can be hashed; without those that only the database knows."""
    found = row.__dict__
    return {name: _frozen(row, name, column, found[name]) for name, column in _columns(_model(row)) if name in found}


_PLAIN = frozenset({str, int, bool, type(None)})


def _frozen(row: object, name: str, column: Column[Any], value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict) or isinstance(column.type, JSON):
        try:
            return Document(json.dumps(value, sort_keys=True))
        except TypeError as error:
            raise SessionMisused(f"{type(row).__name__}.{name} cannot be written as JSON: {error}") from error
    return Items(tuple(_frozen(row, name, column, item) for item in value)) if isinstance(value, list) else value


def _thawed(value: Any) -> Any:
    if isinstance(value, Document):
        return json.loads(value.text)
    return [_thawed(item) for item in value.items] if isinstance(value, Items) else value


def _model(row: object) -> Any:
    return type(row)


def _key(row: object) -> Any:
    return held.key(_model(row)).of(row)


@cache
def _columns(model: Any) -> tuple[tuple[str, Column[Any]], ...]:
    return tuple((attribute.key, attribute.columns[0]) for attribute in inspect(model).column_attrs)


@cache
def _relationships(model: Any) -> tuple[str, ...]:
    return tuple(inspect(model).relationships.keys())


@cache
def _python_type(column: Column[Any]) -> type[Any] | None:
    try:
        return column.type.python_type
    except NotImplementedError:
        return None


def _takes_none(column: Column[Any]) -> bool:
    """Whether None is a value in this column: null in JSON."""
    return isinstance(column.type, JSON) and column.type.should_evaluate_none


def _bind(row: Any) -> None:
    """Let a row refuse what is not in memory."""
    model = _model(row)
    for name in _relationships(model):
        if row.__dict__.pop(name, None):
            _refuse_relationship(model, name)
        _refuse_reading(row, name, lambda name: _refuse_relationship(model, name))


def _refuse_reading(row: object, name: str, refuse: Callable[[str], NoReturn]) -> None:
    state = instance_state(row)
    state.callables = {**state.callables, name: lambda _state, _passive: refuse(name)}


def _refuse_relationship(model: type[Any], name: str) -> NoReturn:
    raise SessionMisused(
        f"rows in memory have no relationships: {model.__name__}.{name} is tried on a real session, with the fixture "
        f"`trial`"
    )


def _not_given(row: object, name: str) -> SessionMisused:
    return SessionMisused(f"{type(row).__name__}.{name} is None, and must not be NULL")


def _refuse_unstorable(row: Any) -> None:
    found = row.__dict__
    for name, column in _columns(_model(row)):
        value = found.get(name, "")
        if value is None and not column.nullable and not _takes_none(column):
            raise _not_given(row, name)
        if not _is_storable(value):
            raise SessionMisused(
                f"{type(row).__name__}.{name} holds a NUL character or half a surrogate pair, which PostgreSQL cannot "
                f"store"
            )


def _is_storable(value: Any) -> bool:
    if type(value) is int:
        return True
    if isinstance(value, str):
        return "\0" not in value and (value.isascii() or not any("\ud800" <= one <= "\udfff" for one in value))
    if isinstance(value, dict):
        return all(_is_storable(key) and _is_storable(inner) for key, inner in value.items())
    return not isinstance(value, list) or all(map(_is_storable, value))


def _default_of_database(row: Any, name: str, column: Column[Any]) -> None:
    """Give a new row the database's default, if that is a plain value. Another one, such as now(), cannot be read."""
    default: Any = getattr(column.server_default, "arg", None)
    plain = isinstance(default, str)
    if isinstance(default, TextClause):
        literal = _LITERAL.fullmatch(default.text.strip())
        plain = literal is not None
        default = default.text.strip() if literal is None or literal[1] is None else literal[1].replace("''", "'")
    if plain and (read := _READERS.get(_python_type(column))) is not None:
        setattr(row, name, read(default))
    elif column.primary_key:
        raise SessionMisused(
            f"{type(row).__name__}.{name} is made by the database: give the row a key, or use the fixture `trial`"
        )
    else:
        row.__dict__.pop(name, None)
        _refuse_default(row, name)


def _refuse_default(row: object, name: str) -> None:
    what = f"{type(row).__name__}.{name} is made by the database, so rows in memory do not have it"

    def refuse(_name: str) -> NoReturn:
        raise SessionMisused(f"{what}: give it, or use the fixture `trial`")

    _refuse_reading(row, name, refuse)


_LITERAL = re.compile(r"(?:'((?:[^']|'')*)'|-?\d+(?:\.\d+)?|true|false)(?:::[\w ]+)?", re.IGNORECASE)
_READERS: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    Decimal: Decimal,
    bool: lambda text: text.lower() in ("true", "t", "1", "yes", "on"),
    dict: json.loads,
    list: json.loads,
}
"""How a literal default is read, by the type of its column."""
