"""Describes a failure: its type, its message, its place, and its record.

The place is a list of frames, those of the service first, innermost first, without the values of variables, which may
be private data. It goes into logs, and into dead letters beside the message.
"""

import inspect
import linecache
import sys
import sysconfig
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from json import dumps
from pathlib import Path
from traceback import walk_stack, walk_tb
from types import FrameType
from typing import Any

from ..errors import ServiceBroken
from ..protocol.ports import Record
from .metrics import log

DETAIL_MAX = 2_000
"""Characters kept of an error; enough for the message and the place."""

ERROR_MAX = 100
"""Characters of an error's name."""

LOGGED_MAX = 1_000
"""Characters of an error in a log line; a database error repeats whole statements."""

FRAMES_MAX = 8
"""Frames of the service, and as many of other code, kept of an error: the innermost ones."""

CAUSES_MAX = 3
"""Length of the chain of causes that is followed."""

LINE_MAX = 160
"""Characters of a line of source."""

KEY_MAX = 200
"""Characters of a record's key, type or id in a log line."""

_PLACES = "_places_of_service"
"""The attribute of an error that holds the places from `add_places`."""

_LIBRARY = Path(__file__).parents[1]
_ROOT = _LIBRARY.parent
_OTHERS = tuple({str(_LIBRARY), *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))})
"""Folders whose code is not the service's."""


def describe(error: BaseException) -> tuple[str, str]:
    """Return the name and message of an error, as text of limited length that PostgreSQL can store; an error without a
    message shows its type.
    """
    name = type(error).__name__[:ERROR_MAX]
    try:
        words = str(error)
    except BaseException as worse:  # noqa: BLE001 - an error of a handler may hold anything
        words = f"it cannot be printed: {type(worse).__name__}"
    return name, _storable(words[:DETAIL_MAX])[:DETAIL_MAX].strip() or f"{name} without a message"


def _storable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode().replace("\x00", "\\0")


def frames(error: BaseException) -> str:
    """Describe where `error` and its causes came from: types and places, no messages and no values."""
    given = getattr(error, "frames", None)
    if isinstance(given, str):
        return given
    parts: list[str] = []
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen and len(seen) < CAUSES_MAX:
        seen.add(id(following))
        name = type(following).__name__[:ERROR_MAX]
        parts.append(f"caused by {name}" if parts else name)
        parts += [f"  {added}" for added in _added(following)]
        parts += _lines(walk_tb(following.__traceback__))
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return _storable("\n".join(parts))


def add_places(error: BaseException, places: Iterable[str]) -> None:
    """Put these places before the frames of `error`: a flush writes for handlers that have already returned, and fails
    in library frames only.
    """
    with suppress(AttributeError, TypeError):  # of an exception without a `__dict__`
        vars(error)[_PLACES] = (*_added(error), *places)[:FRAMES_MAX]


def _added(error: BaseException) -> tuple[str, ...]:
    found = getattr(error, _PLACES, ())
    return found if isinstance(found, tuple) else ()


def of_function(function: Any) -> str:
    """Return the place of a function."""
    inner = inspect.unwrap(getattr(function, "func", function))  # of a partial
    code = getattr(inner, "__code__", None)
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    return f"{_short(code.co_filename)}:{code.co_firstlineno} in {name}" if code is not None else str(name)


def of_class(kind: type) -> str:
    """Return the place of a class."""
    return (
        f"{_short(getattr(sys.modules.get(kind.__module__), '__file__', None) or kind.__module__)}, {kind.__qualname__}"
    )


def stack(frame: FrameType) -> str:
    """Describe the stack of a thread whose innermost frame is `frame`."""
    return "\n".join(_lines(reversed(list(walk_stack(frame)))))


def place(error: BaseException) -> str:
    """Return the innermost place of the service in `error`, or the innermost of all if there is none."""
    own, others = _split(walk_tb(error.__traceback__))
    if not own and (added := _added(error)):
        return added[0]
    found = own or others
    return _place(found[-1]) if found else ""


def _is_own(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return not name.startswith(("<", *_OTHERS)) and "site-packages" not in name


def _split(walked: Iterable[tuple[FrameType, int]]) -> Sequence[deque[tuple[FrameType, int]]]:
    """Split frames, outermost first, into the service's and others, and keep the last of each."""
    parts: tuple[deque[tuple[FrameType, int]], ...] = (deque(maxlen=FRAMES_MAX), deque(maxlen=FRAMES_MAX))
    for frame, line in walked:
        parts[not _is_own(frame)].append((frame, line))
    return parts


def _lines(walked: Iterable[tuple[FrameType, int]]) -> list[str]:
    lines = []
    for found in (at for part in _split(walked) for at in reversed(part)):
        source = linecache.getline(found[0].f_code.co_filename, found[1]).strip()[:LINE_MAX]
        lines.append(f"  {_place(found)}{': ' if source else ''}{source}")
    return lines


def _place(at: tuple[FrameType, int]) -> str:
    frame, line = at
    return f"{_short(frame.f_code.co_filename)}:{line} in {frame.f_code.co_qualname}"


def _short(name: str) -> Path:
    path = Path(name)
    return path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else Path(*path.parts[-3:])


def facts(record: Record) -> dict[str, object]:
    """Return log fields that identify a record, short and printable even if the record is neither."""
    found = dict(record.headers or ())
    return {
        "topic": record.input.topic,
        "partition": record.input.partition,
        "offset": record.offset,
        "key": _printable(record.key),
        "event_type": _printable(found.get("ce_type")),
        "event_id": _printable(found.get("ce_id")),
    }


def _printable(data: bytes | None) -> str | None:
    if data is None:
        return None
    text = data[:KEY_MAX].decode(errors="backslashreplace")
    return text if text.isprintable() else dumps(text)[1:-1]


def _error(error: BaseException) -> dict[str, object]:
    """Return log fields that describe an error."""
    name, detail = describe(error)
    return {"error": name, "detail": detail[:LOGGED_MAX], "traceback": frames(error)}


def log_batch(error: Exception, record: Record | None, records: int) -> None:
    """Log that a batch was rolled back, because of `record` if that is known."""
    log.warning("batch_failed", records=records, **(facts(record) if record is not None else {}), **_error(error))


def log_set_aside(error: Exception, record: Record) -> None:
    """Log that a record was set aside."""
    log.error("set_aside", **facts(record), **_error(error))


def log_retry(error: Exception, record: Record, attempts: int, seconds: float) -> None:
    """Log that an input is parked at `record`."""
    write = log.error if isinstance(error, ServiceBroken) else log.warning
    write("retry_later", attempts=attempts, seconds=round(seconds, 2), **facts(record), **_error(error))


def log_parked(error: Exception, record: Record, attempts: int = 1) -> None:
    """Log that a record waits, parked with its key."""
    write = log.error if isinstance(error, ServiceBroken) else log.warning
    write("key_parked", attempts=attempts, **facts(record), **_error(error))
