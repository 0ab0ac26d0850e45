"""The session of handlers and HTTP requests: an ORM session that knows which aggregates it holds locked.

docs/session.md describes what it does for each of SQLAlchemy's ways to read and write; each line there is tested.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar, overload

from sqlalchemy import Connection, Engine, Insert, Row, TextClause, event, inspect
from sqlalchemy.exc import CircularDependencyError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, ORMExecuteState, SessionTransaction
from sqlalchemy.orm import Session as OrmSession
from sqlalchemy.orm.attributes import instance_state

from .errors import SessionMisused
from .events import Event
from .models import Tables
from .orm import documents, flushing, held
from .orm.held import Held
from .orm.lending import lent, refuse, refuse_ending
from .scheduling import Change, moment
from .telemetry import failures

Model = TypeVar("Model", bound=DeclarativeBase)


class Session(OrmSession):
    """An ORM session that reads an aggregate by locking it, and publishes events only for aggregates that it holds.

    `lock` finds a row that was loaded for the whole batch without a query, even one known not to exist. Every query
    sees what this batch has changed so far, because that is written first.
    """

    def __init__(self, bind: Connection | Engine) -> None:
        # Objects stay readable after the commit, for the HTTP answer.
        super().__init__(bind, expire_on_commit=False)
        self._held = Held()
        self._lent = False
        self._before: dict[SessionTransaction, _State] = {}
        """The state when each savepoint began."""
        self._ended: tuple[SessionTransaction, _State] | None = None
        """The same for the last savepoint that ended; only afterwards is it known whether it was rolled back."""
        self.collected: list[Any] = []
        """Events that wait for `Outbox.write`."""
        self.closing: list[Any] = []
        """The library's own statements that go with the COMMIT of a request."""
        self.publisher: Callable[[Event], object] | None = None
        """Called by `publish`; it knows the cause of the event."""
        self.changes: dict[str, Change] = {}
        """Changes of the schedule that wait for `Outbox.write`, by name."""
        self.scheduler: Callable[..., object] | None = None
        """Called by `schedule`; it knows the cause of the event, or is given it by a batch handler."""
        self.settler: Callable[[], None] | None = None
        """Called by `settle`."""

    def publish(self, event: Event) -> None:
        """Publish `event` when the transaction commits. Events that a handler returns are published after it.

        Raises `NotOwned` if its aggregate is neither locked nor new in this session, and in a request `Problem` (503)
        while too many events wait.
        """
        if self.publisher is None:
            raise _not_lent("published")
        self.publisher(event)

    @overload
    def schedule(self, event: Event, *, after: timedelta, name: str, cause: Event | None = None) -> Change: ...

    @overload
    def schedule(self, event: Event, *, at: datetime, name: str, cause: Event | None = None) -> Change: ...

    def schedule(
        self,
        event: Event,
        *,
        name: str,
        after: timedelta | None = None,
        at: datetime | None = None,
        cause: Event | None = None,
    ) -> Change:
        """Publish `event` at a moment: once, in the order of its key's moments. What waits under `name` is replaced,
        and then the answer is true. If the moment has passed, it is published with this transaction, after the others.

        A batch handler gives the `cause`, one of its events. Raises `NotOwned` as `publish` does; `ValueError` for a
        moment beyond ten years, or without a time zone.
        """
        change = Change(name, moment(after, at), self.settle)
        if self.scheduler is None:
            raise _not_lent("scheduled")
        self._settle_name(name)
        self.scheduler(event, change) if cause is None else self.scheduler(event, change, cause)
        return change

    def cancel(self, name: str) -> Change:
        """Cancel the event that is scheduled under `name`. The answer is true if it was still waiting: then it is never
        published; otherwise there was none, or it has become due.
        """
        change = Change(name, None, self.settle)
        if self.scheduler is None:
            raise _not_lent("cancelled")
        self._settle_name(name)
        self.changes[name] = change
        return change

    def _settle_name(self, name: str) -> None:
        """Write changes before a second one of the same name."""
        if name in self.changes:
            self.settle()

    def settle(self) -> None:
        """Write the changes of the schedule now, so that each knows what it has found."""
        if self.changes and self.settler is not None:
            self.settler()

    def lock(self, model: type[Model], key: Any) -> Model | None:
        """Return the row of `model` with the primary key `key`, locked until the end of the transaction; None if there
        is none. If the primary key has several columns, `key` is a tuple in their order.
        """
        try:
            row = self._held.rows[model][key]
        except KeyError:
            row = self._lock_now(model, key)
        if row is None:
            self._held.name((model,))
            row = self._held.rows[model].get(key)
        if row is None:
            return None
        state = instance_state(row)
        if state._deleted or state in self._deleted:
            return None
        if state.session_id != self.hash_key:  # it was expunged
            row = self._lock_now(model, key)
        return row  # type: ignore[no-any-return]

    def _lock_now(self, model: type[Model], key: Any) -> Any:
        self._held.rows.get(model, {}).pop(key, None)
        self.lock_all(model, (key,))
        return self._held.rows[model][key]

    def lock_all(self, model: type[Model], keys: Iterable[Any]) -> None:
        """Lock the rows of `model` with the given primary keys."""
        rows = self._held.rows.setdefault(model, {})
        wanted = [key for key in dict.fromkeys(keys) if key not in rows]
        if not wanted:
            return
        given = held.values(model, wanted)
        self._flush_before_reading(model, wanted)
        of = held.key(model).of
        found = {of(row): row for row in self.scalars(held.locking(model, single=len(wanted) == 1), given)}
        if strange := found.keys() - set(wanted):
            raise SessionMisused(
                f"{model.__name__} has the key {strange.pop()!r}, and was asked for it in another form: give a key "
                f"as the database gives it back"
            )
        for key in wanted:
            rows[key] = found.get(key)
        self._held.keys.update(map(held.key(model).text, found))

    def _flush_before_reading(self, model: type[Model], keys: Iterable[Any]) -> None:
        """Write changes to rows about to be read again, so that reading does not overwrite them."""
        mapper = inspect(model)
        for key in keys:
            row = self.identity_map.get(mapper.identity_key_from_primary_key(key if isinstance(key, tuple) else (key,)))
            if row is not None and instance_state(row).modified:
                self.flush()
                return

    def holds(self, key: str) -> bool:
        """Return whether an aggregate with this key is locked or new in this session. With several key columns, the key
        is `shared.events.key_of` of their values.
        """
        if key not in self._held.keys:
            self._held.name()
        return key in self._held.keys

    def delete(self, instance: object) -> None:
        """Delete a row; one that is still new is written first, so that its key stays held."""
        if inspect(instance, raiseerr=False) in self._new:
            self.flush()
        super().delete(instance)

    def flush(self, objects: Any = None) -> None:
        """Write all changes, in the order of the foreign keys."""
        try:
            super().flush(objects)
        except CircularDependencyError as error:
            raise SessionMisused(
                "rows of this transaction refer to each other in a circle, so none can be written first; make one of "
                "their foreign keys DEFERRABLE INITIALLY DEFERRED, or set it in a second flush"
            ) from error
        except SQLAlchemyError as error:
            failures.add_places(error, flushing.written(self, error))
            raise

    def merge(self, instance: Any, *, load: bool = True, options: Any = None) -> Any:
        """Copy `instance` onto the row with its primary key, which is locked first; or add it as a new one."""
        if not load:
            raise SessionMisused("merge(load=False) believes a row without reading it: lock it instead")
        model: Any = type(instance)
        if inspect(instance).session is not self and (key := held.key(model).of(instance)) is not None:
            self.lock(model, key)
        return super().merge(instance, load=load, options=options)

    def refresh(self, instance: object, attribute_names: Any = None, with_for_update: Any = None) -> None:
        """Read a row again, and lock it if requested."""
        self._autoflush()
        super().refresh(instance, attribute_names, with_for_update)
        if with_for_update and not (isinstance(with_for_update, dict) and with_for_update.get("read")):
            self._held.hold(instance)

    # ---- not for handlers

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Lend this session to a handler or a request: until the block ends, nothing can end the transaction."""
        self._lent = True
        try:
            yield
        finally:
            self._lent = False

    def own_connection(self) -> Connection:
        """Return the connection itself, for the library's statements."""
        return super().connection()

    def connection(self, bind_arguments: Any = None, execution_options: Any = None) -> Connection:
        """Return the connection; all changes are written first. The session cannot see what is changed through it:
        `expire` such rows.
        """
        found = super().connection(bind_arguments, execution_options)
        if not self._lent:
            return found
        self._autoflush()
        return lent(found)

    def commit(self) -> None:
        """Commit; not for handlers."""
        self._refuse_if_lent("commit")
        super().commit()

    def rollback(self) -> None:
        """Roll back; not for handlers."""
        self._refuse_if_lent("rollback")
        super().rollback()

    def close(self) -> None:
        """End the session; not for handlers."""
        self._refuse_if_lent("close")
        super().close()
        # They refer to the session: it would be left to the garbage collector, with all its rows.
        self.publisher = self.scheduler = self.settler = None

    def reset(self) -> None:
        """End the session; not for handlers."""
        self._refuse_if_lent("reset")
        super().reset()

    def invalidate(self) -> None:
        """End the session; not for handlers."""
        self._refuse_if_lent("invalidate")
        super().invalidate()

    def prepare(self) -> None:
        """Refused: there is no two-phase commit here."""
        refuse("prepare")

    def _refuse_if_lent(self, what: str) -> None:
        if self._lent:
            refuse(what)

    def bulk_save_objects(self, *_: Any, **__: Any) -> None:
        """Refused."""
        _refuse_bulk("bulk_save_objects")

    def bulk_insert_mappings(self, *_: Any, **__: Any) -> None:
        """Refused."""
        _refuse_bulk("bulk_insert_mappings")

    def bulk_update_mappings(self, *_: Any, **__: Any) -> None:
        """Refused."""
        _refuse_bulk("bulk_update_mappings")

    # ---- SQLAlchemy's events

    def _executes(self, state: ORMExecuteState) -> Any:
        """Before a statement of the caller, write all changes, and note which rows it locks or invalidates."""
        if state.execution_options.get(held.OURS) or state.is_column_load or self._flushing:
            return None
        if self._lent:
            refuse_ending(state.statement)
        if state.execution_options.get("autoflush", True):
            self._autoflush()
        if state.is_select:
            locked = held.locked_tables(state.statement)
        else:
            locked = {getattr(state.statement, "table", None)} if _tells_rows(state) else set()
            self._forget(state)
        if not locked or not state.is_orm_statement:
            self._hold_new(state)
            return None
        self.flush()  # rows read now come from the database and overwrite those in the session
        result = state.invoke_statement(execution_options={"populate_existing": True}).freeze()
        if not state.is_select and state.bind_mapper is not None:
            self._hold_written(state.bind_mapper.class_, state.statement, result.data)
        for row in result.data:
            for value in row if isinstance(row, tuple | Row) else (row,):
                found = inspect(value, raiseerr=False)
                if getattr(found, "mapper", None) is not None and found.mapper.base_mapper.local_table in locked:
                    self._held.hold(value)
        return result()

    def _hold_new(self, state: ORMExecuteState) -> None:
        """Hold the rows that an INSERT is given: it writes all of them, or it fails and ends the transaction."""
        mapper, statement = state.bind_mapper, state.statement
        if mapper is None or not isinstance(statement, Insert) or statement._post_values_clause is not None:
            return
        model: Any = mapper.class_
        given: Any = state.parameters if isinstance(state.parameters, list) else (state.parameters or {},)
        self._held.hold_keys(model, held.key(model).among(given))

    def _hold_written(self, model: Any, statement: Any, rows: Sequence[Any]) -> None:
        """Hold the rows of which a statement has returned the primary key."""
        places = held.places_of_key(model, statement._returning)
        if len(places) == 1:
            self._held.hold_keys(model, [row[places[0]] for row in rows])
        elif places:
            self._held.hold_keys(model, [tuple(row[place] for place in places) for row in rows])

    def _forget(self, state: ORMExecuteState) -> None:
        """Forget everything that a statement may have changed without the ORM's knowledge."""
        statement: Any = state.statement
        if isinstance(statement, TextClause):
            if statement.text.lstrip(" \n\t(").upper().startswith(("SELECT", "SHOW", "VALUES", "TABLE")):
                return
            tables = None
        else:
            tables = {statement.table} if hasattr(statement, "table") else None
        adds_only = state.is_insert and statement._post_values_clause is None
        followed = state.is_orm_statement and (state.is_update or state.is_delete)
        followed = followed and state.execution_options.get("synchronize_session", "auto") is not False
        self._held.forget(tables, missing_only=adds_only or followed)
        if not adds_only and not followed:
            for row in list(self.identity_map.values()):
                if tables is None or tables & set(inspect(type(row)).tables):
                    self.expire(row)


_State = tuple[Held, int, dict[str, Change]]


def _not_lent(what: str) -> SessionMisused:
    return SessionMisused(f"an event is {what} in a handler or in a request; this session is of neither")


def _tells_rows(state: ORMExecuteState) -> bool:
    """Return whether a statement returns the rows that it wrote, which are then locked."""
    return (state.is_insert or state.is_update) and bool(getattr(state.statement, "_returning", ()))


def _refuse_bulk(what: str) -> None:
    raise SessionMisused(f"{what} goes past the session: use add_all, or session.execute(insert(Model), [...])")


def _savepoint_begins(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested:
        session._before[transaction] = (session._held.copy(), len(session.collected), dict(session.changes))


def _ends(session: Session, transaction: SessionTransaction) -> None:
    if transaction in session._before:
        session._ended = (transaction, session._before.pop(transaction))


def _rolled_back(session: Session, transaction: SessionTransaction) -> None:
    """Restore the state at the savepoint: a rollback to it releases the locks, and undoes the events, since then."""
    if session._ended is not None and session._ended[0] is transaction:
        session._held, events, session.changes = session._ended[1]
        session._ended = None
        del session.collected[events:]
        for change in session.changes.values():
            change.found = None  # what was written inside is undone


def _refuse_detached(_session: Session, instance: object) -> None:
    raise SessionMisused(
        f"this {type(instance).__name__} was read in another transaction, and may be out of date: lock it, or merge it"
    )


event.listen(Tables, "mapper_configured", documents.watch, propagate=True)
event.listen(Session, "before_flush", flushing.order)
event.listen(Session, "do_orm_execute", lambda state: state.session._executes(state))
event.listen(Session, "transient_to_pending", lambda session, row: session._held.hold(row))
event.listen(Session, "pending_to_transient", lambda session, row: session._held.let_go(row))
event.listen(Session, "detached_to_persistent", _refuse_detached)
event.listen(Session, "after_transaction_create", _savepoint_begins)
event.listen(Session, "after_soft_rollback", _rolled_back)
event.listen(Session, "after_transaction_end", _ends)
