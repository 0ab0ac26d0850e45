"""Rewrite database errors so that they say what failed, where in the schema, and never a value.

A value may be personal data. PostgreSQL writes values into an error's DETAIL, HINT and CONTEXT, and sometimes into its
message; SQLAlchemy adds the statement and its parameters. All of that would end up in logs, in dead letters and in the
events about them. So the engine rewrites every error where it arises, before anything can record it:

    (psycopg.errors.UniqueViolation) duplicate key value violates unique constraint "parcel_pkey"
    (SQLSTATE 23505, table parcel)
    [SQL: INSERT INTO parcel (id) VALUES (%(id)s)]

The error's type, its SQLSTATE and `orig.diag` stay as they are, for a handler that has to inspect them.
"""

import re

import psycopg
from psycopg.errors import Diagnostic
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import StatementError

NAMES_ONLY = frozenset(
    {"08", "0A", "23", "25", "28", "2B", "3B", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "F0", "XX"}
)
"""Classes of SQLSTATE whose messages name servers, limits and parts of the schema. Messages of other classes, data
exceptions above all, repeat values. https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

QUOTING = frozenset({"42601", "42P22", "42846"})
"""States of these classes whose messages quote the statement."""

FREE_WORDS = frozenset({"00", "01", "02", "P0", "38", "39"})
"""Errors raised by functions and triggers, with any text."""

LOCKED = "55P03"
"""A lock was not granted in time."""

OURS = "canceling wait for synchronous replication"
"""A warning of the server itself, without a SQLSTATE of its own."""

_QUOTED = re.compile(r"(['\"]).*\1", re.DOTALL)  # greedy: a value may have quotes in it
_PLACE = re.compile(r"^PL/\w+ function ([\w.\"]+)\(.*?\) (line \d+)", re.MULTILINE)
_RELATION = re.compile(r'^while .*? in relation "([^"]+)"', re.MULTILINE)
_LITERAL = re.compile(r"[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|'.*\Z", re.DOTALL)


def install(engine: Engine) -> None:
    """Keep values out of all errors of `engine`."""
    event.listen(engine, "handle_error", _rewrite)


def words(diagnostic: Diagnostic) -> str:
    """Return the server's report, without values."""
    state, message = diagnostic.sqlstate or "", diagnostic.message_primary or ""
    if state[:2] in FREE_WORDS and not message.startswith(OURS):
        message = "a function or a trigger raised a message, which may hold values; the server's log has it"
    elif state[:2] not in NAMES_ONLY | FREE_WORDS or state in QUOTING:
        message = _QUOTED.sub('"…"', message.partition(": ")[0])
    facts = [f"SQLSTATE {state}"]
    for kind in ("schema", "table", "column", "datatype", "constraint"):
        name = getattr(diagnostic, f"{kind}_name")
        if name and name != "public" and f'"{name}"' not in message:
            facts.append(f"{kind} {name}")
    if place := _PLACE.search(diagnostic.context or ""):
        facts.append(f"in {place[1]}, {place[2]}")
    report = f"{message} ({', '.join(facts)})"
    if state == LOCKED:
        found = _RELATION.search(diagnostic.context or "")
        what = f"a row of {found[1]}" if found else "what it waits for"
        report += (
            f". PostgreSQL is up; {what} is locked by another session: see pg_stat_activity and pg_blocking_pids(), "
            "and docs/operating.md, 'A lock that is not given back'"
        )
    return report


def _rewrite(context: ExceptionContext) -> None:
    """Rewrite an error and SQLAlchemy's wrapper in place: a traceback shows both."""
    original, made = context.original_exception, context.sqlalchemy_exception
    if isinstance(original, psycopg.Error) and original.diag.sqlstate:
        original.args = (words(original.diag),)
    elif isinstance(original, psycopg.DataError):  # the driver's own: it cannot write or read a value
        _rewrite_conversion(original, _QUOTED.sub('"…"', str(original).partition(": ")[0]))
    elif made is not None and not isinstance(original, psycopg.Error):
        _rewrite_conversion(original, "a value of the statement cannot be written as its type")
    if isinstance(made, StatementError):
        kind = type(original)
        made.args = (f"({kind.__module__}.{kind.__qualname__}) {original}",)
        made.statement = made.statement and _LITERAL.sub("'…'", made.statement)
        made.params = None


def _rewrite_conversion(error: BaseException, message: str) -> None:
    error.args = (message,)
    error.__cause__ = None  # its cause contains the value too
    error.__suppress_context__ = True
