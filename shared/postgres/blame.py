"""Decide what a failure is due to: the record, or the service, its schema and its surroundings.

A failure that the record cannot have caused is never a dead letter: the input waits, and resumes once it is fixed.
By class of SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html):

    08 40, of 25 53 55 57   the server is unavailable: the whole worker waits (`shared.postgres.transaction`)
    58, others of these     either: a query that takes too long, too much memory or too large a temporary file, a page
                            that cannot be read. The record is tried alone, while its input waits in between; it is the
                            record's when others of its type are handled meanwhile (`shared.protocol.intake`)
    0A 26 28 3D 3F 42 72    the statement, the role, the schema: the same for every record, so its input waits
    F0 HV XX                the server's configuration, a foreign server's, an internal error: the same
    42804 42846 42725       of class 42, but they follow from the type of a value, which may differ from
    42P08 42P18             record to record (None where a number was): as any other failure
    22 54 23                data, limits and constraints: the record's; 23502 also after a wrong deploy
    all others              errors that functions raise (P0), cursors, savepoints: may be the record's

A missing row-level right (42501) waits too: waiting loses nothing. An error of unclear cause, such as a `KeyError`,
is a dead letter if alone; many equal ones in a row stop the worker (`EqualFailures`).
"""

import errno
import socket
from collections.abc import Collection, Sequence
from traceback import walk_tb
from types import ModuleType

from sqlalchemy.exc import DBAPIError

from ..errors import Reject, Retry, TooManyDeadLetters
from ..protocol.ports import NewDeadLetter
from ..telemetry.failures import CAUSES_MAX, describe, frames, place

SERVICE = frozenset({"0A", "26", "28", "3D", "3F", "42", "72", "F0", "HV", "XX"})
"""Classes of SQLSTATE that are the same for every record."""

BY_VALUE = frozenset({"42804", "42846", "42725", "42P08", "42P18"})
"""States of these classes that a value may cause."""

INFRASTRUCTURE = frozenset({"08", "25", "40", "53", "55", "57", "58"})
"""Classes that concern the server and mostly not the data: connection, transaction state, rollback (serialization,
deadlock), resources, object not available (locks), operator intervention, system error.
"""

IN_FAILED_TRANSACTION = "25P02"
"""Not infrastructure: a handler caught a database error and went on."""

SURROUNDINGS = frozenset({"08", "40", "25006", "25P03", "25P04", "53100", "53300", "55P03"})
"""Those that no record can cause: read-only, ended for being idle or late, disk full, too many connections, another
session's lock. Of class 57 only a cancelled statement, 57014, may be due to a record.
"""

RECORD = frozenset({"22", "23", "54"})
"""Classes that are about values: many of them in a row may be many bad records."""

NOT_NULL = "23502"
"""One of these; a column without a default also causes it in old code."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.ENOMEM})
"""A machine without room says nothing about a record."""

DEBUGGERS = frozenset({"bdb", "pdb"})
"""Modules of the standard library; other debuggers are built on them."""


def state_of(error: BaseException | None) -> str:
    """Return the SQLSTATE of `error`; empty if it has none."""
    return (getattr(error.orig, "sqlstate", None) or "") if isinstance(error, DBAPIError) else ""


def is_infrastructure(error: BaseException | None) -> bool:
    """Whether `error` means that PostgreSQL cannot do something now."""
    state = state_of(error)
    return state[:2] in INFRASTRUCTURE and state != IN_FAILED_TRANSACTION


def may_be_either(error: BaseException | None) -> bool:
    """Whether `error`, of a handler's statement, may be due to the record or to the surroundings."""
    state = state_of(error)
    if not is_infrastructure(error) or state in SURROUNDINGS or state[:2] in SURROUNDINGS:
        return False
    return state[:2] != "57" or state == "57014"


def is_service(error: BaseException | None) -> bool:
    """Whether no record can have caused `error`."""
    if isinstance(error, DBAPIError):
        state = state_of(error)
        return state[:2] in SERVICE and state not in BY_VALUE
    if isinstance(error, NameError):  # a local variable may be unset because of the record
        return not isinstance(error, UnboundLocalError)
    if isinstance(error, AttributeError):
        return isinstance(error.obj, ModuleType)
    if isinstance(error, SyntaxError):  # of a module; `literal_eval` and the like name no file
        return bool(error.filename) and not str(error.filename).startswith("<")
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return isinstance(error, ImportError | ConnectionError | socket.gaierror)


def is_debuggers(error: BaseException | None) -> bool:
    """Whether `error`, or its cause, is how the debugger stops a program when a person quits it: BdbQuit, or in newer
    versions a SystemExit.
    """
    for _ in range(CAUSES_MAX):
        if error is None:
            return False
        modules = [frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__)]
        if DEBUGGERS.intersection(modules[-1:]):
            return True
        error = error.__cause__ or error.__context__
    return False


def why(error: BaseException) -> str:
    """Tell that an input waits, and why."""
    told = ": ".join(describe(error))
    return f"no record is the cause of this; fix it, and the input goes on by itself: {told}"


def _counts(error: BaseException) -> bool:
    """Whether many of them mean a defect rather than many bad records. A `Reject` is the handler's decision about this
    one record.
    """
    if isinstance(error, Reject | Retry):
        return False
    state = state_of(error)
    return state[:2] not in RECORD or state == NOT_NULL


class EqualFailures:
    """Counts dead letters of one event type that failed equally, under different keys, with none handled in between.

    Equal means the same type of exception, raised at the same line of the service.
    """

    def __init__(self, most: int, command: str) -> None:
        self._most = most
        self._command = command
        self._rows: dict[str, tuple[tuple[str, str], set[bytes | None]]] = {}

    def note(self, handled: Collection[str], dead_letters: Sequence[NewDeadLetter]) -> None:
        """Note a batch's handled event types and dead letters. Raises `TooManyDeadLetters`."""
        for name in handled:
            self._rows.pop(name, None)
        for dead_letter in dead_letters:
            if dead_letter.envelope is None or not _counts(dead_letter.error):
                continue
            kind = dead_letter.envelope.type
            failure = (type(dead_letter.error).__name__, place(dead_letter.error))
            known, keys = self._rows.get(kind, (failure, set()))
            if known != failure:
                keys = set()
            keys.add(dead_letter.record.key)
            self._rows[kind] = failure, keys
            if self._most and len(keys) >= self._most:
                told, at = ": ".join(describe(dead_letter.error))[:500], failure[1] or frames(dead_letter.error)[:200]
                raise TooManyDeadLetters(
                    f"{len(keys)} {kind} of different keys in a row failed alike, EQUAL_FAILURES_MAX = {self._most}: "
                    f"{told}, at {at}. Fix the handler, then restart; redrive with "
                    f"`{self._command} dead-letters redrive --all`"
                )
