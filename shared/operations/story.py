"""`story`: the whole way of an aggregate, or of an event, across services and topics, as a timeline.

The command has the settings of one service. The databases of the others are asked too where they can be reached: those
of the services beside this one, if DATABASE_URL has `{service}` in it, so that it leads to theirs as well. That is the
default, and no option, since whoever asks wants the whole story; what cannot be reached is a line below it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from ..configuration.program import packages_beside, program
from ..container import container_in
from ..errors import CommandFailed, ExactlyOnceError, Unavailable
from ..postgres import engine as postgres_engine
from ..service import Service
from .maintenance import Context
from .output import as_json, echo, note, printable
from .story_entries import Entry, Told
from .story_telling import Story, refuse_wrong, tell
from .story_topics import Bounds

SERVICES_MAX = 50
"""Services beside this one that are asked."""

CELL = 40
"""Characters of a cell: types and topics of strangers may be longer."""

LINE = 400
"""Characters of a line of details."""


def show(
    context: Context, wanted: str, *, since: Any, records: int, everywhere: bool, values: bool, json: bool
) -> None:
    """Print the story of a key or an event. Raises `CommandFailed` if nobody knows it, `Unavailable` if a server that
    may know it does not answer.
    """
    refuse_wrong(wanted)
    if since is not None and not isinstance(since, datetime):
        raise CommandFailed(f"--since takes a time, such as 2026-11-28T09:00Z, and not the offset {since}")
    bounds = Bounds(records=records, since=since, everywhere=everywhere, values=values)
    with databases(context) as (engines, services, away):
        found = tell(context, engines, wanted, bounds, services=services)
    missed = [*found.missed, *away]
    if not found.entries:
        _refuse_unknown(found, missed)
    if json:
        as_json(facts(found, missed))
    else:
        _print(found, missed)


@contextmanager
def databases(context: Context) -> Iterator[tuple[dict[str, Engine], list[Service], list[str]]]:
    """Give an engine for the database of this service and for each of those beside it, the declarations of those that
    can be imported, and a line for each whose database cannot be found.
    """
    engines, declared, away = {context.service.name: context.engine}, [], []
    made = []
    try:
        for package in packages_beside()[:SERVICES_MAX]:
            service = declaration(package)
            name = service.name if service is not None else package.rpartition(".")[2]
            if name in engines:
                continue
            if "{service}" not in context.settings.database_url.get_secret_value():
                why = "DATABASE_URL has no {service}, so it leads to this service's database alone"
                away.append(f"{name}: its database was not asked: {why}; ask with `{program(name)} story ID`")
                continue
            if service is not None:
                declared.append(service)
            with suppress(ExactlyOnceError):  # it is the URL of this service, which was read already
                engines[name] = postgres_engine.connect(context.settings, name, pool_size=1)
                made.append(engines[name])
        yield engines, declared, away
    finally:
        for engine in made:
            engine.dispose()


def declaration(package: str) -> Service | None:
    """Return the declaration of the service in a package; None if it cannot be imported."""
    try:
        service: object = container_in(package).service()
    except Exception:  # noqa: BLE001 - it is the code of another service, and the story is told without it
        return None
    return service if isinstance(service, Service) else None


def _refuse_unknown(found: Story, missed: list[str]) -> None:
    """Say what was looked at on standard error, and last what that means."""
    note(f"Asked: {', '.join(found.services) or 'no database'}")
    for line in _where(found.looked or ["no topic"], missed):
        note(line)
    unknown = f"nothing is known of {found.wanted[:LINE]}"
    if found.away:
        raise Unavailable(f"{unknown}, as far as could be looked at")
    raise CommandFailed(f"{unknown}: nobody has it as a key or as an event's id")


# ---- the output


def facts(found: Story, missed: list[str]) -> dict[str, Any]:
    """Return a story as data."""
    return {
        "wanted": found.wanted,
        "key": found.key,
        "services": list(found.services),
        "entries": [_facts(told) for told in found.entries],
        "looked_at": list(found.looked),
        "not_looked_at": missed,
    }


def _facts(told: Told) -> dict[str, Any]:
    entry = told.entry
    made: dict[str, Any] = {
        "number": told.number,
        "because": told.because,
        "when": None if entry.when is None else entry.when.isoformat(),
        "service": entry.service,
        "what": entry.what,
        "event": entry.event,
        "event_id": entry.event_id,
        "source": entry.source,
        "key": entry.key,
        "topic": entry.topic,
        "partition": entry.partition,
        "offset": entry.offset,
        "caused_by": entry.caused_by,
        "decided": None if entry.decided is None else entry.decided.isoformat(),
        "traceparent": entry.traceparent,
        "detail": entry.detail,
    }
    return made if entry.value is None else {**made, "value": entry.value}


def _print(found: Story, missed: list[str]) -> None:
    named = "" if found.key == found.wanted else f", whose key is {found.key}"
    echo(f"The story of {found.wanted}{named}")
    echo()
    rows = [_cells(told) for told in found.entries]
    heads = ("", "TIME (UTC)", "SERVICE", "WHAT", "EVENT", "WHERE", "BY")
    widths = [max(len(row[n]) for row in (heads, *rows)) for n in range(len(heads))]
    indent = " " * (widths[0] + widths[1] + 4)
    echo("  ".join(head.ljust(width) for head, width in zip(heads, widths, strict=True)).rstrip())
    for told, row in zip(found.entries, rows, strict=True):
        echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        for line in _details(told.entry, found.key):
            echo(f"{indent}{_cut(line, LINE)}")
    echo()
    for line in _where(found.looked, missed):
        echo(line)


def _where(looked: Iterable[str], missed: Iterable[str]) -> Iterator[str]:
    yield from (f"Looked at: {line}" for line in looked)
    yield from (f"Not looked at: {line}" for line in missed)


def _cells(told: Told) -> tuple[str, ...]:
    entry = told.entry
    where = str(entry.place) if entry.place is not None else entry.topic
    when = "not yet" if entry.when is None else f"{entry.when:%Y-%m-%d %H:%M:%S.%f}"[:-3]
    cells = (entry.service, entry.what, entry.event.removesuffix(".v1"), where)
    by = "" if told.because is None else str(told.because)
    return str(told.number).rjust(3), when, *(_cut(cell or "-", CELL) for cell in cells), by


def _details(entry: Entry, key: str) -> Iterator[str]:
    if entry.key and entry.key != key:
        yield f"key {entry.key}"
    if entry.event_id and entry.what in ("scheduled", "in outbox", "claimed", "published", "call"):
        yield entry.event_id
    if entry.detail:
        yield entry.detail
    if entry.value is not None:
        yield entry.value


def _cut(text: str, most: int) -> str:
    shown = printable(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
