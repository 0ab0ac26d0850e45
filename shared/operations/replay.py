"""`replay run`: feed records that were handled before through the handlers once more, for a new read model.

The effects go to the service's tables in another schema, with an inbox and positions of their own. Nothing is
published, and the workers, their tables and their group go on as if there were no replay.
"""

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import inspect

from ..errors import CommandFailed
from ..postgres.engine import refuse_transaction_pooler
from ..protocol.ports import Input, Position
from ..service import Service
from . import moments, replay_schema
from .decisions import refuse_other
from .group import Group, Span, Topic
from .maintenance import Context, Maintenance
from .moments import Place
from .output import columns, echo
from .replay_feed import Done, Feed
from .replay_schema import Begun, ReplayDatabase, Window

BEGINNING = "beginning"

Start = Place | str
"""A place, or `beginning`."""


def run(
    context: Context, *, into: str, since: Start | None, until: Place | None, sources: Sequence[str] | None
) -> bool:
    """Begin a replay, or go on with it; False if it is not complete afterwards. Raises `CommandFailed`."""
    replay_schema.refuse_name(into)
    _refuse_qualified(context.service)
    refuse_transaction_pooler(context.engine)
    words = _words(since, until, sources)
    with replay_schema.database(context, into) as database:
        with Group(context.settings, context.service) as group, context.engine.connect() as connection:
            for topic in context.service.consumed_topics:
                refuse_other(Maintenance(context, group, connection), topic)
            found = replay_schema.begun(connection, into)
            live = replay_schema.live(connection)
            if found is None:
                windows = _begin(context, group, live, since=since, until=until, sources=sources)
                replay_schema.create(context, into, words, windows)
            else:
                _refuse_another(context, into, found, words)
            replay_schema.bring_up_to_date(context, into)
            extend = "--until" not in (found.words if found else words)
            windows = _windows(group, database, live, extend=extend)
        _tell(into, windows)
        done = Feed(context, database, windows).run()
    return _report(context, into, done)


def _words(since: Start | None, until: Place | None, sources: Sequence[str] | None) -> str:
    """Return what was typed, in one form."""
    given = [("--from", since), ("--until", until), *(("--target", source) for source in sorted(set(sources or ())))]
    return " ".join(
        f"{name} {shlex.quote(moments.words(value) if isinstance(value, datetime) else str(value))}"
        for name, value in given
        if value is not None
    )


def _refuse_qualified(service: Service) -> None:
    """Refuse models whose tables name their schema: a replay would write to the live ones."""
    metadatas = {inspect(rows.model).local_table.metadata for route in service.routes for rows in route.rows}
    for table in (table for metadata in metadatas for table in metadata.tables.values()):
        if table.schema is not None:
            raise CommandFailed(
                f"the table {table} names its schema, so a replay would write to the live one: leave the schema out"
            )


def _refuse_another(context: Context, into: str, begun: Begun, words: str) -> None:
    if begun.service != context.service.name:
        raise CommandFailed(f"the schema {into} is a replay of {begun.service}: name another one")
    if begun.switched:
        raise CommandFailed(f"tables of {into} have become live: name another schema, or drop this one")
    if words and words != begun.words:
        raise CommandFailed(
            f"the replay into {into} was begun with {begun.words}: leave these options out, and it goes on; or drop "
            f"the schema, or name another one"
        )


def _begin(
    context: Context,
    group: Group,
    live: Mapping[Input, Position],
    *,
    since: Start | None,
    until: Place | None,
    sources: Sequence[str] | None,
) -> dict[Input, Window]:
    """Return the windows of a new replay. Raises `CommandFailed` for what makes no sense."""
    if since is None:
        raise CommandFailed(f"say where to begin: --from {BEGINNING}, --from TIME, or --from OFFSET of one input")
    topics = group.topics(context.service.consumed_topics)
    chosen = _chosen(context.service, topics, sources or context.service.consumed_topics)
    spans = group.spans(chosen)
    ends = {source: min(live[source].next_offset, spans[source].stable) if source in live else 0 for source in spans}
    if (isinstance(since, int) or isinstance(until, int)) and len(chosen) > 1:
        raise CommandFailed("each input has offsets of its own: name one with --target, or give a time for all")
    firsts = _places(group, spans, since)
    lasts = ends if until is None else _places(group, spans, until)
    for source, span in spans.items():
        if firsts[source] < span.low:
            raise CommandFailed(f"{source}: there are records from offset {span.low} on; earlier ones are gone")
        if firsts[source] == span.low > 0:
            echo(f"{source}: its records begin at offset {span.low}; earlier ones are gone, and their effects missing")
        for name, place in (("--from", since), ("--until", until)):
            if isinstance(place, int) and place > ends[source]:
                raise CommandFailed(
                    f"{source}: {name} {place} is after {ends[source]}, where the workers stand: nothing later was "
                    f"handled yet"
                )
    return {
        source: Window(
            first := min(firsts[source], max(ends[source], spans[source].low)),
            max(min(lasts[source], ends[source]), first),
            live[source].epoch if source in live else 0,
            topics[source.topic].id,
        )
        for source in sorted(spans)
    }


def _chosen(service: Service, topics: Mapping[str, Topic], names: Collection[str]) -> set[Input]:
    """Return the inputs that are named by topic or by partition."""
    chosen: set[Input] = set()
    for name in names:
        partition = re.fullmatch(r"(.+)\[([0-9]{1,10})\]", name)
        topic = partition[1] if partition else name
        if topic not in service.consumed_topics:
            raise CommandFailed(f"{topic} is not consumed by {service.name}; {', '.join(service.consumed_topics)} is")
        if topic not in topics:
            raise CommandFailed(f"Kafka has no topic {topic}")
        numbers = range(topics[topic].partitions)
        if partition and int(partition[2]) not in numbers:
            raise CommandFailed(f"{topic} has {len(numbers)} partitions: there is no {name}")
        chosen.update(Input(topic, n) for n in ([int(partition[2])] if partition else numbers))
    if not chosen:
        raise CommandFailed(f"{service.name} consumes nothing, so there is nothing to replay")
    return chosen


def _places(group: Group, spans: Mapping[Input, Span], place: Start) -> dict[Input, int]:
    if isinstance(place, datetime):
        return moments.offsets(group, spans, place)
    return {source: place if isinstance(place, int) else span.low for source, span in spans.items()}


def _windows(
    group: Group, database: ReplayDatabase, live: Mapping[Input, Position], *, extend: bool
) -> dict[Input, Window]:
    """Return what is left to replay: up to where the workers stand now, unless `--until` said otherwise."""
    windows = database.windows()
    topics, spans = group.topics({source.topic for source in windows}), group.spans(windows)
    if extend:
        database.extend({i: min(live[i].next_offset, spans[i].stable) for i in windows if i in live and i in spans})
        windows = database.windows()
    for source, window in windows.items():
        if source not in spans or topics[source.topic].id != window.topic_id:
            raise CommandFailed(f"{source}: the topic was deleted or created again since: drop the schema, begin anew")
        if window.first < min(spans[source].low, window.until):
            raise CommandFailed(
                f"{source}: the next record to replay is {window.first}, and there are records from offset "
                f"{spans[source].low} on: retention has removed the rest. Drop the schema, and begin anew"
            )
    return windows


def _tell(into: str, windows: Mapping[Input, Window]) -> None:
    columns(
        ("INPUT", "FROM", "UNTIL", "OFFSETS"),
        [(source, one.first, one.until, f"{one.until - one.first:,}") for source, one in windows.items()],
    )
    echo(f"replaying into schema {into}; what handlers publish, schedule and call is thrown away; Ctrl+C ends, and")
    echo("the same command goes on")


def _report(context: Context, into: str, done: Done) -> bool:
    columns(
        ("INPUT", "NEXT OFFSET", "LEFT"),
        [(source, offset, f"{end - offset:,}") for source, (offset, end) in done.windows.items()],
    )
    echo(
        f"{done.handled:,} records handled, {done.duplicates:,} duplicates dropped, {done.aside:,} set aside; "
        f"{done.discarded:,} events and calls thrown away"
    )
    if done.dead_letters:
        echo(f"{done.dead_letters:,} records are dead letters, in {into}.exactly_once_dead_letter")
    if done.parked:
        echo(f"{done.parked:,} records of {done.parked_keys:,} keys wait, in {into}.exactly_once_parked")
    if done.stopped:
        echo(f"stopped; {context.command(f'replay run --into {into}')} goes on")
        return False
    if done.dead_letters or done.parked:
        echo(f"{into} has not all of the window")
        if done.parked:
            echo(f"{context.command(f'replay run --into {into}')} tries again what waits")
        if done.dead_letters:
            echo(f"where the handler is to blame, mend it, DROP SCHEMA {into} CASCADE, and begin again;")
            echo("what is a dead letter live, too, or was dismissed there, hinders no switch")
        return False
    echo(f"{into} has all of the window")
    return True
