"""Folding of repeated log lines: the first of a kind is written, the rest are counted, and the count is written once a
minute, or soon after the last one, with its time. A server that is down must neither fill a disk nor bury other lines.
"""

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

SECONDS = 60.0
"""How long the lines of a kind are counted before their count is written."""

QUIET_SECONDS = 10.0
"""A kind without a line for this long is written before its minute is over: the trouble may have ended."""

LOOK_SECONDS = 2.0
"""Seconds between two checks for counts to write."""

KINDS_MAX = 500
"""Kinds that are remembered; the oldest one makes room, and its count is written."""

LEVELS = frozenset({"warning", "error"})
"""Lower levels are written only on request; `critical` reports the end of work, and is repeated on purpose."""

MEASURES = frozenset({"seconds", "timestamp", "exception", "exc_info", "stack_info", "traceback", "repeated", "last"})
"""Fields that differ from one repetition to the next."""

OVER = re.compile(r"\w+_(available|ended)|resumed")
"""Lines that report an end: all counts are written before them, and before critical lines."""

WORDS = frozenset({"event", "detail", "error", "client"})
"""Fields in which different numbers do not make a different kind: ports, milliseconds, counts."""

SET_ANEW = frozenset({"event", "level", "timestamp", "repeated", "last"})
"""Fields of a repetition that the line with the count sets itself."""

_NUMBER = re.compile(r"\d+")
_FLUSHED = "_flushed"

Line = dict[str, Any]


@dataclass
class _Kind:
    began: float
    repeated: int = 0
    seen: float = 0.0
    last: Line | None = None
    at: str = ""
    """Time of the last repetition: ISO 8601, UTC."""

    def is_over(self, now: float) -> bool:
        return now - self.began >= SECONDS or (self.repeated > 0 and now - self.seen >= QUIET_SECONDS)


class Folding:
    """A structlog processor. A line with different fields, such as an offset or an event id, is no repetition."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: OrderedDict[tuple[tuple[str, str], ...], _Kind] = OrderedDict()
        self._turn = threading.Lock()

    def __call__(self, _logger: object, _method: str, line: Any) -> Any:
        """Let a line pass, or count it and raise `DropEvent`."""
        if line.pop(_FLUSHED, False):
            return line
        if line.get("level") == "critical" or OVER.fullmatch(str(line.get("event"))):
            self.flush(everything=True)
        if line.get("level") not in LEVELS:
            return line
        key = tuple(sorted((name, _text(name, value)) for name, value in line.items() if name not in MEASURES))
        now = self._clock()
        with self._turn:
            kind = self._kinds.get(key)
            if kind is not None and now - kind.began < SECONDS:
                kind.repeated += 1
                kind.seen, kind.at = now, datetime.now(UTC).isoformat()
                kind.last = {name: value for name, value in line.items() if name != "exc_info"}
                raise structlog.DropEvent
            self._kinds.pop(key, None)
            self._kinds[key] = _Kind(now)
            gone = self._kinds.popitem(last=False)[1] if len(self._kinds) > KINDS_MAX else None
        if kind is not None and kind.repeated:
            line["repeated"] = kind.repeated
        if gone is not None:
            _write(gone)
        return line

    def flush(self, *, everything: bool = False) -> None:
        """Write the counts of all kinds that are quiet or whose minute is over, or of all kinds. One that is no longer
        part of the log writes nothing.
        """
        if not self._in_use():
            return
        now = self._clock()
        with self._turn:
            over = [key for key, kind in self._kinds.items() if everything or kind.is_over(now)]
            kinds = [self._kinds.pop(key) for key in over]
        for kind in kinds:
            _write(kind)

    def watch(self) -> threading.Thread:
        """Flush periodically on a separate thread while this is part of the log."""

        def run() -> None:
            while self._in_use():
                with suppress(OSError, ValueError):  # the disk is full, or the output is closed: later lines may pass
                    self.flush()
                time.sleep(LOOK_SECONDS)

        thread = threading.Thread(target=run, name="log folding", daemon=True)
        thread.start()
        return thread

    def _in_use(self) -> bool:
        return structlog.is_configured() and self in structlog.get_config()["processors"]


def _text(name: str, value: object) -> str:
    return _NUMBER.sub("#", str(value)) if name in WORDS else str(value)


def _write(kind: _Kind) -> None:
    if kind.repeated and kind.last is not None:
        facts = {name: value for name, value in kind.last.items() if name not in SET_ANEW}
        log = structlog.get_logger().bind(**facts, repeated=kind.repeated, last=kind.at, **{_FLUSHED: True})
        getattr(log, kind.last["level"])(kind.last["event"])
