"""Held rows: those that a session holds locked until its transaction ends, and those known not to exist.

A row is held if no other transaction can lock or change it before this one ends: it was locked for update, changed by a
statement that returned its rows, or is new. Only then is the order of the events about it the order of the commits, and
only for such rows does `Outbox.add` accept events.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    Alias,
    Column,
    Join,
    Select,
    Table,
    and_,
    any_,
    bindparam,
    cast,
    func,
    inspect,
    select,
    tuple_,
)
from sqlalchemy.orm import Mapper
from sqlalchemy.sql.selectable import ForUpdateArg

from ..errors import SessionMisused
from ..events import key_of


class Key(NamedTuple):
    """The primary key of a model."""

    names: tuple[str, ...]
    """Its attributes."""

    def of(self, row: object) -> Any:
        """Return the key of a row as `lock` takes it: a value, or a tuple; None if it has none yet."""
        if len(self.names) == 1:
            return getattr(row, self.names[0])
        values = tuple(getattr(row, name) for name in self.names)
        return None if None in values else values

    def among(self, rows: Iterable[Mapping[str, Any]]) -> list[Any]:
        """Return the keys of rows that are given as values by attribute, without those whose key is not given."""
        if len(self.names) == 1:
            (name,) = self.names
            return [row[name] for row in rows if name in row]
        return [tuple(row[name] for name in self.names) for row in rows if row.keys() >= {*self.names}]

    def text(self, key: Any) -> str:
        """Return a key as the key of an event."""
        return key_of(*key) if len(self.names) > 1 else str(key)


# Every batch needs both, and building such a statement takes as long as executing it.


@cache
def key(model: Any) -> Key:
    """Describe the primary key of `model`."""
    mapper: Mapper[Any] = inspect(model)
    return Key(tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key))


@cache
def kinds(model: Any) -> tuple[Any, ...]:
    """Return `model` and the models that it inherits from: a row is one of each."""
    return tuple(mapper.class_ for mapper in inspect(model).iterate_to_root())


@cache
def locking(model: Any, *, single: bool) -> Select[Any]:
    """Return the statement that reads and locks the rows with the given keys, in key order so that two sessions cannot
    deadlock. There is a list of values for each column: `keys0`, `keys1` ...; for a `single` key, which PostgreSQL
    plans once and not for each list, a value.
    """
    columns = inspect(model).primary_key
    wanted: Any
    if single:
        # The cast makes of a value what a list of its type would: one in another form is found, and refused.
        wanted = and_(
            *(column == cast(bindparam(f"keys{n}", type_=column.type), column.type) for n, column in enumerate(columns))
        )
    elif len(columns) == 1:
        wanted = columns[0] == any_(bindparam("keys0", type_=ARRAY(columns[0].type)))
    else:
        lists = [bindparam(f"keys{n}", type_=ARRAY(column.type)) for n, column in enumerate(columns)]
        given = func.unnest(*lists).table_valued(*(f"key{n}" for n in range(len(columns)))).render_derived()
        wanted = tuple_(*columns).in_(select(*given.c))
    return (
        select(model)
        .where(wanted)
        .order_by(*columns)
        .with_for_update(of=model)
        .execution_options(populate_existing=True, autoflush=False, **{OURS: True})
    )


OURS = "exactly_once_locks"
"""The option that marks our own statements."""


def values(model: Any, keys: Sequence[Any]) -> dict[str, Any]:
    """Return the values for `locking`, those of a single key if there is one. Raises `SessionMisused` for a key of
    another form.
    """
    names = key(model).names
    if len(names) == 1:
        for one in keys:
            if isinstance(one, (tuple, list)):
                raise SessionMisused(
                    f"the primary key of {model.__name__} is {names[0]}: lock it by its value, not by a "
                    f"{type(one).__name__}"
                )
        return {"keys0": keys[0] if len(keys) == 1 else list(keys)}
    for one in keys:
        if not isinstance(one, tuple) or len(one) != len(names) or any(isinstance(part, (tuple, list)) for part in one):
            raise SessionMisused(
                f"the primary key of {model.__name__} is ({', '.join(names)}): lock it by a tuple of these, "
                f"not by a {type(one).__name__}"
            )
    if len(keys) == 1:
        return {f"keys{n}": value for n, value in enumerate(keys[0])}
    return {f"keys{n}": list(column) for n, column in enumerate(zip(*keys, strict=True))}


class Held:
    """The rows that are held, and those that are known not to exist."""

    def __init__(self) -> None:
        self.rows: dict[Any, dict[Any, Any]] = {}
        """By model and key; None for a row that does not exist."""
        self.keys: set[str] = set()
        """As the keys of events."""
        self._unnamed: dict[Any, list[Any]] = {}
        """New rows whose key was not known when they were added."""

    def copy(self) -> "Held":
        """Return a copy."""
        made = Held()
        made.rows = {model: dict(rows) for model, rows in self.rows.items()}
        made.keys = set(self.keys)
        made._unnamed = {model: list(rows) for model, rows in self._unnamed.items()}
        return made

    def hold(self, row: object) -> None:
        """Hold a row that exists or is new."""
        model: Any = type(row)
        primary = key(model)
        found = primary.of(row)
        if found is None:
            self._unnamed.setdefault(model, []).append(row)
            return
        for kind in kinds(model):
            self.rows.setdefault(kind, {})[found] = row
        self.keys.add(primary.text(found))

    def hold_keys(self, model: Any, keys: Iterable[Any]) -> None:
        """Hold rows that a statement has written, and of which it told only the keys."""
        self.keys.update(map(key(model).text, keys))

    def let_go(self, row: object) -> None:
        """Release a new row that will not be written after all."""
        model: Any = type(row)
        found = key(model).of(row)
        for kind in kinds(model):
            if found is not None and self.rows.get(kind, {}).get(found) is row:
                del self.rows[kind][found]
                self.keys.discard(key(model).text(found))
        if row in self._unnamed.get(model, ()):
            self._unnamed[model].remove(row)

    def name(self, models: Iterable[Any] | None = None) -> None:
        """Recheck new rows whose key was not known."""
        for model in list(self._unnamed) if models is None else models:
            rows = self._unnamed.pop(model, ())
            for row in rows:
                self.hold(row)

    def forget(self, tables: set[Table] | None, *, missing_only: bool) -> None:
        """Forget rows of `tables`, or of all tables: another statement wrote to them, so they may have changed."""
        for model, rows in self.rows.items():
            if tables is None or tables & set(inspect(model).tables):
                if missing_only:
                    self.rows[model] = {key: row for key, row in rows.items() if row is not None}
                else:
                    self.rows[model] = {}


def locked_tables(statement: Any) -> set[Any]:
    """Return the tables whose rows a SELECT locks exclusively: none if others may share the lock.

    PostgreSQL locks nothing in a WITH query, and the rows of a subquery belong to no table that we could name.
    """
    lock: ForUpdateArg | None = getattr(statement, "_for_update_arg", None)
    if lock is None or lock.read:
        return set()
    froms = statement.get_final_froms() if lock.of is None else [getattr(part, "table", part) for part in lock.of]
    return set().union(*map(_tables, froms))


def places_of_key(model: Any, returned: Sequence[Any]) -> list[int]:
    """Return where the columns of a RETURNING have the primary key of `model`; nothing if one is missing."""
    places = {(one.table, one.name): n for n, one in enumerate(returned) if isinstance(one, Column)}
    found = [places.get((column.table, column.name)) for column in inspect(model).primary_key]
    return [] if None in found else [place for place in found if place is not None]


def _tables(part: Any) -> set[Any]:
    if isinstance(part, Join):
        return _tables(part.left) | _tables(part.right)
    if isinstance(part, Alias):
        return _tables(part.element)
    return {part} if isinstance(part, Table) else set()
