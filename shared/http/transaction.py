"""The session of a request."""

from typing import Any, TypeVar

from sqlalchemy import Join, Select, inspect
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.orm import DeclarativeBase

from ..errors import SessionMisused
from ..orm import held
from ..session import Session
from .listing import Page
from .problems import Problem

Model = TypeVar("Model", bound=DeclarativeBase)


class Transaction(Session):
    """The request's transaction: it commits, together with the answer, once the endpoint has returned. Any exception
    undoes all of it.
    """

    def lock_or_404(self, model: type[Model], key: Any) -> Model:
        """Return the row of `model` with the primary key `key`, locked until the request ends. Raises `Problem`."""
        return _or_404(self.lock(model, key), model, key)

    def get_or_404(self, model: type[Model], key: Any) -> Model:
        """Return the row of `model` with the primary key `key`, unlocked, for reading. Raises `Problem`."""
        return _or_404(self.get(model, key), model, key)

    def lock_or_add(self, row: Model) -> tuple[Model, bool]:
        """Return the existing row with the primary key of `row`, locked, and False; or `row`, just written, and True.

        If a concurrent request adds the row, this one waits for it. A handler needs no such care: its batch is
        repeated. Raises `SessionMisused` for a row with rows of a relationship.
        """
        model = type(row)
        for name in inspect(model).relationships.keys() & vars(row).keys():
            if vars(row)[name]:
                raise SessionMisused(
                    f"lock_or_add writes one row, without its `{name}`: leave them out, and set them on the "
                    f"{model.__name__} that it returns, if it was added"
                )
        columns = {name: value for name, value in vars(row).items() if name in inspect(model).column_attrs}
        new = insert(model).values(columns).on_conflict_do_nothing().returning(*inspect(model).primary_key)
        added = self.execute(new).one_or_none() is not None
        found = self.lock(model, held.key(model).of(row))
        if found is None:  # deleted by another transaction between the two statements
            raise Problem(409, f"this {model.__name__.lower()} was just deleted; repeat the request")
        return found, added

    def page(self, wanted: Select[Model], after: Any, limit: int) -> Page[Model]:
        """Return at most `limit` rows of `wanted`, newest first, beginning `after` a key; None: with the newest.

        A row that a join finds several times is on the page once. The primary key has to grow with time, as a UUIDv7
        does. Raises `TypeError` if it has several columns, or if `wanted` has an order or bounds of its own.
        """
        model = wanted.column_descriptions[0]["entity"]
        key, *more = inspect(model).primary_key
        if wrong := f"{model.__name__} has a key of several columns" if more else _own_bounds(wanted):
            raise TypeError(f"a page is ordered by one key column, newest first, and {wrong}: write the query yourself")
        froms = wanted.get_final_froms()
        if len(froms) > 1 or isinstance(froms[0], Join):
            wanted = wanted.ext(distinct_on(key))
        wanted = wanted.order_by(key.desc()).limit(limit + 1)
        if after is not None:
            wanted = wanted.where(key < after)
        found = list(self.scalars(wanted))
        rows = found[:limit]
        return Page(rows, held.key(model).of(rows[-1]) if len(found) > limit else None)


def _own_bounds(wanted: Select[Any]) -> str:
    """Name what `page` would contradict or override."""
    own = {
        "an `order_by`": wanted._order_by_clauses,
        "a `limit`": wanted._limit_clause is not None,
        "an `offset`": wanted._offset_clause is not None,
        "a `fetch`": wanted._fetch_clause is not None,
    }
    return next((f"the statement has {name}" for name, given in own.items() if given), "")


def _or_404(row: Model | None, model: type[Model], key: Any) -> Model:
    if row is None:
        raise Problem(404, f"there is no {model.__name__.lower()} {key}")
    return row
