"""Write the new and changed rows of a batch to PostgreSQL, many rows in one statement.

The ORM hands the rows of a flush to the driver's `executemany`, and psycopg sends one statement for each. Here they go
as arrays in a single one:

    INSERT INTO stock (sku, price) SELECT given.sku, given.price FROM unnest(...) AS given (sku, price)
    UPDATE stock SET price=given.price FROM unnest(...) AS given (price, stock_sku) WHERE stock.sku = given.stock_sku

Measured for 500 rows of seven columns: 5 us of CPU per row, on both sides together, instead of 33. Only a statement
that means the same in this form is changed; any other is left to the driver.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import Binary
from psycopg.types.array import ListBinaryDumper
from psycopg.types.json import Jsonb
from sqlalchemy import Dialect, Engine, Enum, String, TypeDecorator, event
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import NullType, TypeEngine

KINDS = (str, int, float, Decimal, bytes, date, UUID, Jsonb, Binary)
"""Types that an array may contain; any other is left to the driver."""


class Array(list[Any]):
    """Values sent to PostgreSQL as a binary array: 1.7 us for a row of seven columns, 7.8 us as text."""


class _Form(NamedTuple):
    """A statement that takes arrays."""

    statement: str
    names: tuple[str, ...]
    """Its parameters."""
    keys: tuple[str, ...]
    """Those that find the rows to change. `executemany` may change a row twice; one statement changes it once."""


def install(engine: Engine) -> None:
    """Make `engine` send many rows in one statement, where that means the same."""
    event.listen(engine, "connect", _teach_arrays)
    event.listen(engine, "do_executemany", _execute)


def _teach_arrays(connection: Any, _record: object) -> None:
    connection.adapters.register_dumper(Array, ListBinaryDumper)


def _execute(cursor: Any, statement: str, rows: Sequence[Mapping[str, Any]], context: Any) -> bool:
    """Answer SQLAlchemy's event: True if it is done, False to leave it to the driver."""
    form = _form(context.compiled, statement) if isinstance(context.compiled, SQLCompiler) else None
    if form is None:
        return False
    columns = {name: Array(row[name] for row in rows) for name in form.names}
    if not all(map(_alike, columns.values())):
        return False
    if form.keys and len(set(zip(*(columns[key] for key in form.keys), strict=True))) < len(rows):
        return False
    cursor.execute(form.statement, columns)
    return True


def _alike(values: Array) -> bool:
    """Whether all are of one kind: the driver inspects one element of an array to decide how to send all."""
    kinds = {type(value) for value in values if value is not None}
    return len(kinds) <= 1 and all(issubclass(kind, KINDS) for kind in kinds)


_NAME = re.compile(r"%\((\w+)\)s")
_VALUE = r"%\(\w+\)s(?:::[\w ]+(?:\([\d, ]+\))?)?"
_SET, _IS = rf"[\w\"]+={_VALUE}", rf"[\w.\"]+ = {_VALUE}"
# Patterns, not statements.
_INSERT = re.compile(rf"(INSERT INTO [^()]+ \([^()]+\)) VALUES \(({_VALUE}(?:, {_VALUE})*)\)")  # noqa: S608
_UPDATE = re.compile(rf"(UPDATE [^()]+ SET {_SET}(?:, {_SET})*)( WHERE {_IS}(?: AND {_IS})*)")  # noqa: S608


@lru_cache(maxsize=500)
def _form(compiled: SQLCompiler, statement: str) -> _Form | None:
    """Return the form of `statement` that takes arrays; None if it contains more than plain values."""
    found = _INSERT.fullmatch(statement) or _UPDATE.fullmatch(statement)
    names = tuple(dict.fromkeys(_NAME.findall(statement)))
    if found is None or compiled.effective_returning or not compiled.binds.keys() >= set(names):
        return None
    if any(isinstance(compiled.binds[name].type, NullType) for name in names):  # from `text`, which has no types
        return None
    words = [_word(compiled.binds[name].type, compiled.dialect) for name in names]
    arrays = ", ".join(f"%({name})s::{word}[]" for name, word in zip(names, words, strict=True))
    given = f" FROM unnest({arrays}) AS given ({', '.join(names)})"
    head, rest = (_NAME.sub(r"given.\1", part) for part in found.groups())
    if found.re is _INSERT:
        return _Form(f"{head} SELECT {rest}{given}", names, ())
    return _Form(head + given + rest, names, tuple(_NAME.findall(found[2])))


def _word(type_: TypeEngine[Any], dialect: Dialect) -> str:
    """Return a parameter's type in SQL, text without its length: a cast would cut what the table refuses."""
    while isinstance(type_, TypeDecorator):
        type_ = type_.load_dialect_impl(dialect)
    return "TEXT" if isinstance(type_, String) and not isinstance(type_, Enum) else type_.compile(dialect)
