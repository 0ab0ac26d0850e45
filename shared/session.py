"""The session that handlers and HTTP requests work in: an ORM session that knows which aggregates it holds locked."""

from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import ARRAY, Connection, Engine, Select, any_, bindparam, event, inspect, select
from sqlalchemy.exc import CircularDependencyError
from sqlalchemy.orm import DeclarativeBase, Mapper
from sqlalchemy.orm import Session as OrmSession

from shared import flushing
from shared.errors import SessionMisused

Model = TypeVar("Model", bound=DeclarativeBase)


# Both are asked for in every batch, and to build such a statement takes as long as to execute it.


@cache
def _key_name(model: Any) -> str | None:
    """Name the attribute of the primary key; None if that has several columns."""
    mapper: Mapper[Any] = inspect(model)
    return mapper.get_property_by_column(mapper.primary_key[0]).key if len(mapper.primary_key) == 1 else None


@cache
def _locking(model: Any) -> Select[Any]:
    """Make the statement that reads the rows with the given `keys` and locks them, in key order so that two sessions
    cannot wait for each other.
    """
    (column,) = inspect(model).primary_key
    return (
        select(model)
        .where(column == any_(bindparam("keys", type_=ARRAY(column.type))))
        .order_by(column)
        .with_for_update()
        .execution_options(populate_existing=True)
    )


class Session(OrmSession):
    """An ORM session in which an aggregate is read by locking it, and an event can be said only for an aggregate that
    is held.

    A row that was loaded for the whole batch is found again by `lock` without a query, also when it is known not to
    exist.
    """

    def __init__(self, bind: Connection | Engine) -> None:
        # No autoflush: writes go out once per batch. Objects stay readable after the commit, for the HTTP answer.
        super().__init__(bind, autoflush=False, expire_on_commit=False)
        self._held: dict[type[Any], dict[Any, Any]] = {}
        self._keys: set[str] = set()

    def lock(self, model: type[Model], key: object) -> Model | None:
        """Give the row of `model` with the primary key `key`, locked until the end of the transaction; None if there is
        none.
        """
        held = self._held.setdefault(model, {})
        if key not in held:
            self.lock_all(model, (key,))
        return held[key]  # type: ignore[no-any-return]

    def lock_all(self, model: type[Model], keys: Iterable[object]) -> None:
        """Lock the rows of `model` with the given primary keys."""
        held = self._held.setdefault(model, {})
        wanted = sorted(set(keys) - held.keys())  # type: ignore[type-var]
        if not wanted:
            return
        name = _key_name(model)
        if name is None:
            raise TypeError(f"{model.__name__} is found by more than one column; it cannot be locked as an aggregate")
        rows = self.scalars(_locking(model), {"keys": wanted})
        found = {getattr(row, name): row for row in rows}
        for key in wanted:
            held[key] = found.get(key)
        self._keys.update(map(str, found))

    def add(self, instance: object, *, _warn: bool = True) -> None:
        """Add a new row; from here on this session holds it."""
        super().add(instance, _warn=_warn)
        model: Any = type(instance)
        name = _key_name(model)
        if name is not None and (key := getattr(instance, name)) is not None:
            self._held.setdefault(model, {})[key] = instance
            self._keys.add(str(key))

    def flush(self, objects: Any = None) -> None:
        """Write what has changed, in the order of the foreign keys."""
        try:
            super().flush(objects)
        except CircularDependencyError as error:
            raise SessionMisused(
                "rows of this transaction refer to each other in a circle, so none can be written first; make one of "
                "their foreign keys DEFERRABLE INITIALLY DEFERRED, or set it in a second flush"
            ) from error

    def holds(self, key: str) -> bool:
        """Whether an aggregate with this key is locked or new in this session."""
        return key in self._keys


event.listen(Session, "before_flush", flushing.order)
