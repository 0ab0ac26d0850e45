"""The rows that a handler needs, declared as the types of its parameters.

    reservation: Reservation                                     the row whose primary key is in fields of the event
                                                                 with the names of its columns
    order: Annotated[Order, lock(by="order_id")]                 the row with this field of the event as its key
    seat: Annotated[Seat, lock(by=("room", "number"))]           ... if the key has several columns
    payment: Payment | None                                      the row may be missing
    stock: Annotated[Mapping[str, Stock], lock(by=lambda event: [line.sku for line in event.lines])]
    stock: Annotated[Mapping[str, Stock], lock(by=lambda event, reservation: reservation.lines)]

The last one uses a row declared before it; if that is missing, there is nothing to lock. A batch handler takes

    reservations: Mapping[str, Reservation]                      the rows of all its events that exist, by key

which `lock(by=...)` may find as above, each event's on its own. The rows of a whole batch are
loaded and locked at once: first the first parameter of every handler, then the second, and so on, each table in key
order. So two workers never deadlock, as long as all handlers declare their tables in the same order.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from sqlalchemy import inspect as mapping

from ..errors import Reject
from ..events import Event
from ..orm import held
from ..session import Session
from .annotations import members

By = str | tuple[str, ...] | Callable[..., Any]


class Lock(NamedTuple):
    """The marker in `Annotated[Model, lock(...)]`."""

    by: By | None


def lock(by: By | None = None) -> Lock:
    """Find the row, or the rows, by `by`: a field of the event, several for a key of several columns, or a function.

    A function takes the event, and rows declared earlier, by name. It returns a primary key, or None; for a `Mapping`,
    all keys.
    """
    fields: Any = by if isinstance(by, tuple | list) else (by,)
    if by is not None and not callable(by) and not all(isinstance(field, str) for field in fields):
        raise TypeError(
            f"`lock(by=...)` takes the name of a field of the event, a tuple of names, or a function of the event, and "
            f"was given {by!r}"
        )
    return Lock(by)


class Found(dict[Any, Any]):
    """The existing rows of a `Mapping`, by key."""

    __slots__ = ("model",)

    model: type[Any]

    def __missing__(self, key: object) -> Any:
        raise LookupError(f"there is no {self.model.__name__} {key!r}, or it was not asked for by `lock(by=...)`")


class Rows:
    """One parameter of a handler."""

    def __init__(
        self,
        name: str,
        model: type[Any],
        by: Callable[..., Any],
        after: tuple["Rows", ...],
        *,
        of: str,
        source: object,
        many: bool,
        optional: bool,
    ) -> None:
        self.name = name
        self.source = source
        """The fields or the function that `by` is made of: the same for two that find the same row."""
        self.model = model
        self.many = many
        self.optional = optional
        """Whether the handler accepts None for a missing row."""
        self._by = by
        self._after = after
        self._of = of

    def keys(self, event: Any, session: Session) -> Collection[Any]:
        """Return the primary keys, for loading a whole batch."""
        found = self._found(event, [rows.find(event, session) for rows in self._after] if self._after else ())
        if found is None:
            return ()
        try:
            return frozenset(found) if self.many else frozenset((found,))
        except TypeError:  # unhashable
            raise self._wrong(found) from None

    def _found(self, event: Any, earlier: Sequence[Any]) -> Any:
        """Return the key, or the keys; None if there is nothing to lock."""
        for row in earlier:
            if row is None:
                return None
        found = self._by(event, *earlier)
        if self.many and (isinstance(found, str | bytes) or not isinstance(found, Iterable)):
            raise self._wrong(found)
        return found

    def _wrong(self, found: object) -> TypeError:
        wanted = "several keys: a list, a set or a tuple of them" if self.many else "one key"
        return TypeError(f"{self._of}: `lock(by=...)` of `{self.name}` returned {found!r}, not {wanted}")

    def find(self, event: Any, session: Session, known: Mapping[str, Any] | None = None) -> Any:
        """Return the handler's argument; `known` has the earlier rows. Needs no query if the batch was loaded."""
        earlier: Sequence[Any] = ()
        if self._after:
            earlier = [rows.find(event, session) if known is None else known[rows.name] for rows in self._after]
        keys, model = self._found(event, earlier), self.model
        if not self.many:
            return None if keys is None else session.lock(model, keys)
        found = Found()
        found.model = model
        for key in keys or ():
            row = session.lock(model, key)
            if row is not None:
                found[key] = row
        return found

    def find_all(self, events: Sequence[Any], session: Session) -> Found:
        """Return a batch handler's argument: the existing rows of all its events, by key, as they are now."""
        keys = dict.fromkeys(key for event in events for key in self.keys(event, session))
        session.lock_all(self.model, keys)  # a statement of an earlier handler may have made the session forget them
        found = Found()
        found.model = self.model
        for key in keys:
            if (row := session.lock(self.model, key)) is not None:
                found[key] = row
        return found

    def refuse_missing(self, event: Any) -> None:
        """Raise `Reject`: the row is missing, and the handler requires it."""
        raise Reject(
            f"there is no {self.model.__name__} for {type(event).__name__} {event.key!r}; a handler that does without "
            f"declares `{self.name}: {self.model.__name__} | None`"
        )


def parameter(
    name: str,
    annotation: Any,
    events: Sequence[type[Any]],
    before: Sequence[Rows],
    of: str,
    *,
    of_batch: bool = False,
) -> Rows | None:
    """Read one parameter of the handler `of`; None if it is not a row. Raises `TypeError` if it is declared wrongly."""
    outer, may_be_none = _without_none(annotation)
    bare, *more = get_args(outer) if get_origin(outer) is Annotated else (outer,)
    wish = next((one for one in more if isinstance(one, Lock)), None)
    bare, optional = _without_none(bare)
    optional |= may_be_none
    many = get_origin(bare) is Mapping or (isinstance(get_origin(bare), type) and issubclass(get_origin(bare), Mapping))
    model = get_args(bare)[-1] if many else bare
    if not is_table(model):
        if wish is not None:
            raise TypeError(f"{of}: `{name}` is {model!r}, which is not a class of a table, so there is no row to lock")
        return None
    if of_batch and not many:
        raise TypeError(
            f"{of}: `{name}` is one {model.__name__}, and the events of a batch have many: declare "
            f"`Mapping[..., {model.__name__}]`, the rows of all its events by their keys"
        )
    if many and not of_batch and (wish is None or not callable(wish.by)):
        raise TypeError(f"{of}: `{name}` is many rows: declare their keys, `lock(by=lambda event: ...)`")
    if many and optional:
        raise TypeError(f"{of}: `{name}` is a Mapping, which is empty if there are no rows; leave `| None` away")
    by = wish.by if wish is not None and wish.by is not None else _key_columns(model)
    if callable(by):
        return Rows(name, model, by, _earlier(by, name, before, of), of=of, source=by, many=many, optional=optional)
    fields = (by,) if isinstance(by, str) else tuple(by)
    columns = _key_columns(model)
    for event in events:
        if lacking := [field for field in fields if not _has(event, field)]:
            raise TypeError(
                f"{of}: `{name}` is the {model.__name__} that {event.__name__}.{lacking[0]} names, and there is no "
                f"such field; say which one has its key: `Annotated[{model.__name__}, lock(by=...)]`"
            )
    if len(fields) != len(columns):
        raise TypeError(f"{of}: the key of {model.__name__} is ({', '.join(columns)}); `{name}` names {fields}")
    if fields != columns and set(fields) == set(columns):
        raise TypeError(
            f"{of}: the key of `{name}` is ({', '.join(columns)}), and is found by ({', '.join(fields)}): write "
            f"`lock(by={columns})`; if you mean the row with these values exchanged, "
            f"`lock(by=lambda event: ({', '.join(f'event.{field}' for field in fields)}))`"
        )
    # One row of each event: in a batch these are many, but each is found by one key.
    return Rows(name, model, attrgetter(*fields), (), of=of, source=fields, many=False, optional=optional)


def _has(event: type[Any], name: str) -> bool:
    """Whether each event of this type has a value of its own under `name`: a field, or what its author added."""
    if name in event.__struct_fields__:
        return True
    found = getattr(event, name, None)
    if name == "key":
        return found is not Event.key
    return found is not None and not callable(found) and name not in dir(Event) and name != "topic"


def is_table(model: Any) -> bool:
    """Whether `model` is the class of a table."""
    return isinstance(model, type) and hasattr(mapping(model, raiseerr=False), "primary_key")


def _key_columns(model: type[Any]) -> tuple[str, ...]:
    described: Any = model
    return held.key(described).names


def _without_none(annotation: Any) -> tuple[Any, bool]:
    found = members(annotation)
    rest = [one for one in found if one is not NoneType]
    if not rest or len(rest) == len(found):
        return annotation, False
    return (rest[0] if len(rest) == 1 else annotation), True


def _earlier(by: Callable[..., Any], name: str, before: Sequence[Rows], of: str) -> tuple[Rows, ...]:
    refuse_async(by, f"{of}: `lock(by=...)` of `{name}`")
    try:
        names = list(inspect.signature(by).parameters)
    except (TypeError, ValueError):  # a function in C
        names = ["event"]
    if not names:
        raise TypeError(f"{of}: `lock(by=...)` of `{name}` is called with the event, and takes nothing")
    known = {rows.name: rows for rows in before}
    if unknown := [wanted for wanted in names[1:] if wanted not in known]:
        raise TypeError(
            f"{of}: `lock(by=...)` of `{name}` looks at `{unknown[0]}`, and no row of that name is declared before it"
            f"{f'; there are {chr(44).join(known)}' if known else ''}"
        )
    return tuple(known[wanted] for wanted in names[1:])


def refuse_async(function: Any, what: str) -> None:
    """Refuse a function that is not called within a transaction. Raises `TypeError`."""
    called = inspect.unwrap(getattr(function, "func", function))  # of a partial
    called = called if inspect.isroutine(called) else type(called).__call__
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise TypeError(
            f"{what} is async; it runs inside one database transaction, on a session that is not: write it with `def`, "
            f"and leave what has to wait for another system to another process"
        )
