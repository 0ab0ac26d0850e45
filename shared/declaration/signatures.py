"""The signature of a handler: its parameters with their types, and which of them are rows or the session."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from sqlalchemy.orm import Session as OrmSession

from ..events import Event
from ..session import Session
from .annotations import members
from .rows import Rows, is_table, parameter, refuse_async


def taken(handler: Any, first: str, of: str) -> tuple[inspect.Parameter, list[inspect.Parameter], dict[str, Any]]:
    """Return a handler's first parameter, which is `first`, the others, and all its types.

    Raises `TypeError` for what cannot be called so, or not within a transaction.
    """
    if not callable(handler) or inspect.isclass(handler):
        raise TypeError(f"{of}, is not a function; it is called with {first}, rows and a session")
    refuse_async(handler, of)
    found, hints = _parameters(handler, of)
    if not found or found[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise TypeError(f"{of}: its first parameter is {first}, and it takes none")
    for one in found:
        _refuse_ungiven(one, of)
    return found[0], found[1:], hints


def accepts(annotation: Any, event: type[Event]) -> bool:
    """Whether a parameter of this type may be given `event`."""
    if annotation is Any:
        return True
    return any(isinstance(one, type) and issubclass(event, one) for one in members(annotation))


def given(
    rest: Sequence[inspect.Parameter],
    hints: dict[str, Any],
    events: Sequence[type[Event]],
    of: str,
    *,
    of_batch: bool = False,
) -> tuple[list[Rows], str | None]:
    """Return the rows that a handler takes besides its event, or its batch, and the name of its parameter for the
    session. Raises `TypeError` for any other parameter.
    """
    rows: list[Rows] = []
    session: str | None = None
    for one in rest:
        annotation = hints.get(one.name)
        if one.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise TypeError(f"{of}: `{one.name}` is given by name: leave the `/` away")
        found = parameter(one.name, annotation, events, rows, of, of_batch=of_batch)
        if found is not None:
            rows.append(found)
        elif isinstance(annotation, type) and issubclass(annotation, Session):
            session = one.name
        elif one.default is inspect.Parameter.empty:
            declared = f"is declared as {spelled(annotation)}" if one.name in hints else "has no type"
            besides = "the events" if of_batch else "the event"
            rows_are = "" if of_batch else "classes of tables, or "
            raise TypeError(
                f"{of}: `{one.name}` {declared}; besides {besides} a handler takes `session: Session`, and rows: "
                f"{rows_are}`Mapping[..., Model]` with `lock(by=...)`"
            )
        elif _means_rows(annotation) or (one.default is None and annotation in (None, Any)):
            raise TypeError(
                f"{of}: `{one.name}` has a default, which it would always be given: declare it as `session: Session`, "
                f"`row: Model`, `row: Model | None`, or `Mapping[..., Model]` with `lock(by=...)`"
            )
    return rows, session


def _refuse_ungiven(one: inspect.Parameter, of: str) -> None:
    if one.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        stars = "*" if one.kind is inspect.Parameter.VAR_POSITIONAL else "**"
        raise TypeError(
            f"{of}: `{stars}{one.name}` says nothing of what it needs: leave it away; if a decorator made it, write "
            "`@functools.wraps(handler)` in that"
        )


def _means_rows(annotation: Any) -> bool:
    """Whether a type is a session, a row or a collection of rows."""
    origin = get_origin(annotation)
    if origin is None:
        return is_table(annotation) or (isinstance(annotation, type) and issubclass(annotation, OrmSession))
    if origin is Annotated:
        return _means_rows(get_args(annotation)[0])
    found = members(annotation)
    if found == (annotation,):
        found = get_args(annotation) if isinstance(origin, type) and issubclass(origin, Iterable) else ()
    return any(map(_means_rows, found))


def _parameters(handler: Any, of: str) -> tuple[list[inspect.Parameter], dict[str, Any]]:
    inner = inspect.unwrap(getattr(handler, "func", handler))  # of a partial
    inner = inner if inspect.isroutine(inner) else type(inner).__call__
    try:
        hints = get_type_hints(inner, include_extras=True)
    except (NameError, AttributeError) as error:
        raise TypeError(
            f"{of}: its types cannot be read: {error}. Is it misspelt, or imported only under `if TYPE_CHECKING`?"
        ) from error
    bound = getattr(handler, "keywords", {})
    return [one for one in inspect.signature(handler).parameters.values() if one.name not in bound], hints


def spelled(annotation: Any) -> str:
    """Return a type as it is written."""
    if annotation is None:
        return "nothing"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
