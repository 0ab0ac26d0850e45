"""JSON and array columns whose value is changed in place: `row.lines["tea"] += 1`, `row.tree["tags"].append("new")`.

The ORM notices that a column is given another value, not that its dict or list is changed. Here a value that was read
or written is a dict or a list that marks its row as changed, at any depth. A value that is given to a row stays as it
is until it is written: the row is marked until then.

SQLAlchemy's `MutableDict` sees only the top of a document, and copies what is given to a row, so that a later change of
the original is lost (https://docs.sqlalchemy.org/en/21/orm/extensions/mutable.html). A column that has it keeps it.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import ARRAY, JSON, TypeDecorator, event
from sqlalchemy.dialects.postgresql import HSTORE
from sqlalchemy.ext.mutable import Mutable
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.attributes import flag_modified


class _Part:
    """A dict or a list that belongs to a row."""

    __slots__ = ()
    row: Any
    name: str

    def mark(self) -> None:
        """Mark the row as changed."""
        if self.name in self.row.__dict__:  # it may be expired
            flag_modified(self.row, self.name)


class _Object(dict[Any, Any], _Part):
    __slots__ = ("name", "row")

    def __reduce_ex__(self, _protocol: Any) -> Any:
        """A copy is a plain dict."""
        return dict, (dict(self),)


class _List(list[Any], _Part):
    __slots__ = ("name", "row")

    def __reduce_ex__(self, _protocol: Any) -> Any:
        """A copy is a plain list."""
        return list, (list(self),)


def _marking(change: Any) -> Callable[..., Any]:
    def changed(self: Any, *arguments: Any, **named: Any) -> Any:
        self.mark()
        return change(self, *arguments, **named)

    return changed


_BOTH = ("__setitem__", "__delitem__", "clear", "pop")
for _kind, _changes in (
    (_Object, (*_BOTH, "__ior__", "popitem", "setdefault", "update")),
    (_List, (*_BOTH, "__iadd__", "__imul__", "append", "extend", "insert", "remove", "reverse", "sort")),
):
    for _name in _changes:
        setattr(_kind, _name, _marking(getattr(_kind, _name)))


_PLAIN = frozenset({str, int, float, bool, type(None)})


def _part(value: Any, row: Any, name: str) -> Any:
    """Return `value` as a part of the attribute `name` of `row`; one that it is already stays the same object."""
    if type(value) in _PLAIN or not isinstance(value, dict | list) or isinstance(value, Mutable):
        return value
    if isinstance(value, _Part) and value.row is row and value.name == name:
        kind: Any = dict if isinstance(value, dict) else list
        for place, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if (part := _part(inner, row, name)) is not inner:
                kind.__setitem__(value, place, part)
        return value
    made: Any
    if _PLAIN.issuperset(map(type, value.values() if isinstance(value, dict) else value)):  # most are flat
        made = _Object(value) if isinstance(value, dict) else _List(value)
    elif isinstance(value, dict):
        made = _Object((key, _part(inner, row, name)) for key, inner in value.items())
    else:
        made = _List(_part(inner, row, name) for inner in value)
    made.row, made.name = row, name
    return made


def watch(mapper: Mapper[Any], model: type[Any]) -> None:
    """Watch the documents of a model's rows. A model without any gets no listener."""
    names = [attribute.key for attribute in mapper.column_attrs if _is_document(attribute.columns[0].type)]
    if not names:
        return

    def part(row: Any, *_: Any) -> None:
        values = row.__dict__
        for name in names:
            if name in values:
                values[name] = _part(values[name], row, name)

    def written(_mapper: object, _connection: object, row: Any) -> None:
        part(row)

    for moment, listener in (("load", part), ("refresh", part), ("after_insert", written), ("after_update", written)):
        event.listen(model, moment, listener)


def _is_document(kind: Any) -> bool:
    while isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    return isinstance(kind, JSON | ARRAY | HSTORE)
