"""Collects the story of an aggregate, or of an event: what several services' databases and the topics know of it.

    told = tell(context, {"order": engine, "payment": other}, "0199-...", Bounds())

It begins with the rows and records of the key. Then it follows causes and effects, round by round: an event's id names
the record that has caused it, and the log of claims names what a service has published about a record, also under
other keys. Of these only what belongs to the story is fetched, not the stories of the other keys.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine

from ..errors import CommandFailed, ExactlyOnceError
from ..kafka import topics as kafka_topics
from ..protocol.ports import KEY_BYTES_MAX, Input
from ..service import Service
from .group import Group
from .maintenance import Context
from .story_database import Database
from .story_entries import Told, timeline
from .story_facts import Facts, Found, Identity, Letter, Parked, Place, cause_of, source_of
from .story_topics import Bounds, Topics, in_lines

ROUNDS_MAX = 10
"""How far causes and effects are followed from the key: the longest way in a saga of ours has six records."""

EVENTS_MAX = 500
"""Events of which causes and effects are followed; more is no story that a person reads."""

OTHER_KEYS_MAX = 20
"""Effects under other keys whose records are looked for in the topics: each costs a reading of some thousand records.
The others are shown as their claims."""

NEAR_RECORDS, NEAR = 10_000, timedelta(seconds=60)
"""Records that are looked at for one of them, from this long before its claim on: clocks may differ."""

_LATER = datetime(9999, 1, 1, tzinfo=UTC)

DATABASES_MAX = 8
"""Databases that are asked at the same time: one that does not answer takes five seconds, and a slow one 20."""


@dataclass(frozen=True)
class Story:
    """A story, and where it comes from."""

    wanted: str
    key: str
    """The key of the aggregate; of an event, that of its record."""
    entries: Sequence[Told]
    looked: Sequence[str] = ()
    """What was looked at."""
    missed: Sequence[str] = ()
    """What was not, and why."""
    away: bool = False
    """Whether a server that knows more did not answer."""
    services: Sequence[str] = field(default_factory=tuple)
    """Those whose databases were asked."""


def refuse_wrong(wanted: str) -> None:
    """Refuse what is neither a key nor an id. Raises `CommandFailed`."""
    if not wanted:
        raise CommandFailed("the id is empty; give a key, such as the id of an order, or the id of an event")
    if len(wanted) > KEY_BYTES_MAX:
        raise CommandFailed(f"the id has {len(wanted):,} characters; no key has more than {KEY_BYTES_MAX:,} bytes")
    try:
        length = len(wanted.encode())
    except UnicodeEncodeError:
        raise CommandFailed("the id is not UTF-8, as every key and every event's id is") from None
    if length > KEY_BYTES_MAX:
        raise CommandFailed(f"the id has {length:,} bytes; no key has more than {KEY_BYTES_MAX:,}")
    if "\0" in wanted:
        raise CommandFailed("the id has a NUL character, which no key and no event's id has")


def tell(
    context: Context,
    databases: Mapping[str, Engine],
    wanted: str,
    bounds: Bounds | None = None,
    *,
    services: Collection[Service] = (),
) -> Story:
    """Collect the story of `wanted`, a key or an event's id, from these services' databases and the topics. Of those in
    `services` it is known what they handle. It only reads, and within bounds; what does not answer is left out, and
    named. Raises `CommandFailed` for what is no id.
    """
    refuse_wrong(wanted)
    bounds = bounds or Bounds()
    found = [Database(name, engine, values=bounds.values) for name, engine in databases.items()]
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(DATABASES_MAX))
        opened = [pool.submit(database.open) for database in found]
        topics = missed = None
        try:
            group = stack.enter_context(Group(context.settings, context.service))
            topics = Topics(context, group, bounds)
        except ExactlyOnceError as error:
            missed = f"the topics could not be read: {error}"
        for one in opened:
            one.result()
        takes = {service.name: _takes(service) for service in (*services, context.service)}
        for database in found:
            database.known.takes = takes.get(database.service)
        telling = _Telling(context, found, topics, wanted=wanted, bounds=bounds, pool=pool)
        if missed:
            telling.miss(missed)
        return telling.tell()


class _Telling:
    """One story."""

    def __init__(
        self,
        context: Context,
        databases: Sequence[Database],
        topics: Topics | None,
        *,
        wanted: str,
        bounds: Bounds,
        pool: Executor,
    ) -> None:
        self._context = context
        self._databases = databases
        self._topics = topics
        self._wanted = wanted
        self._bounds = bounds
        self._pool = pool
        self._missed: dict[str, None] = {}
        self._facts = Facts(
            {one.service: one.known for one in databases if one.answers},
            silent=frozenset(one.service for one in databases if not one.answers),
        )
        self._keys = [wanted]
        self._sought: set[Identity] = set()
        self._looked_for: set[Identity] = set()
        self._places: set[Place] = set()
        self._causes: set[Place] = set()
        """Places of records under other keys that were looked up as causes: what else they have caused is another
        story.
        """

    def tell(self) -> Story:
        if self._topics is not None:
            own = set(kafka_topics.needed(self._context.service))
            others = {name for known in self._facts.services.values() for name in known.topics}
            lanes = {f"{service}.outbox" for service in self._facts.services} | {self._context.service.lane_topic}
            self._topics.know(own - lanes, others - lanes)
        self._look(self._wanted, ids=[self._wanted])
        if not self._has_key() and (key := self._key_of_event()) is not None:
            self._keys.append(key)
            self._look(key)
        self._follow()
        self._each(self._look_again)
        self._find_requests()
        self._each(self._find_decisions_in)
        return self._story()

    def _each(self, question: Callable[[Database], None]) -> None:
        """Ask all databases at the same time."""
        for _ in self._pool.map(question, self._databases):
            pass

    def miss(self, note: str) -> None:
        """Note what is not looked at."""
        self._missed[note] = None

    def _look(self, key: str, ids: Sequence[str] = ()) -> None:
        """Look for what there is of a key, and of events."""
        self._each(lambda database: database.look([key], ids))
        if self._topics is None:
            return
        where = None if self._bounds.everywhere else key
        inputs = {source for name in self._topics.names for source in self._topics.inputs(name, where)}
        for known in self._facts.services.values():  # another producer may have put it elsewhere
            rows: list[Letter | Parked] = [*known.letters.values(), *known.parked.values()]
            for row in rows:
                if row.place.topic in self._topics.names and row.key == key:
                    inputs.add(row.place.input)
        raw = key.encode()
        for found in self._topics.read(inputs, lambda record_key, _headers: record_key == raw):
            self._facts.records[found.place] = found

    def _has_key(self) -> bool:
        """Whether what was asked for is a key that somebody knows."""
        return bool(self._facts.records) or any(
            row.key == self._wanted
            for known in self._facts.services.values()
            for rows in (known.outbox, known.schedule, known.parked, known.letters, known.calls)
            for row in rows.values()
        )

    def _key_of_event(self) -> str | None:
        """Find the key of the event that was asked for: in a database, in the record that has caused it, or in the
        topics.
        """
        for known in self._facts.services.values():
            for rows in (known.outbox, known.schedule, known.parked, known.letters, known.calls):
                for row in rows.values():
                    if row.event_id == self._wanted and row.key:
                        return str(row.key)
        source = source_of(self._wanted)
        cause = cause_of(source, self._wanted)
        if self._topics is None:
            return None
        found = self._topics.one(cause.place) if cause is not None and cause.place is not None else None
        if found is not None:  # mostly an effect has the key of its cause
            self._facts.records[found.place] = found
            here = self._search([s for name in self._topics.names for s in self._topics.inputs(name, found.key)])
            if here is not None:
                return here
        there = self._search([s for name in self._topics.names for s in self._topics.inputs(name)])
        if there is None and found is not None:
            self.miss(
                f"{self._wanted} was not found: this is the story of {found.place}, which its id names as its cause"
            )
            return found.key
        return there

    def _search(self, inputs: Sequence[Input]) -> str | None:
        """Look for the event in these partitions."""
        assert self._topics is not None
        wanted = self._wanted
        for found in self._topics.read(inputs, lambda _key, headers: headers.get("ce_id") == wanted):
            self._facts.records[found.place] = found
        keys = [found.key for found in self._facts.records.values() if found.event_id == wanted]
        return keys[0] if keys else None

    # ---- causes and effects

    def _follow(self) -> None:
        for _ in range(ROUNDS_MAX):
            before = self._size()
            self._receive()
            self._look_up_causes()
            self._look_up_effects()
            if self._size() == before:
                return
        self.miss(f"causes and effects were followed for {ROUNDS_MAX} rounds, and there may be more")

    def _size(self) -> int:
        known = self._facts.services.values()
        return len(self._facts.records) + sum(len(k.handled) + len(k.letters) + len(k.claimed) for k in known)

    def _receive(self) -> None:
        """Ask every service which of the events it has received, and which of the records it has set aside."""
        identities = self._identities()
        new = [one for one in identities if one not in self._sought][: EVENTS_MAX - len(self._sought)]
        if len(identities) > len(self._sought) + len(new):
            self.miss(f"causes and effects were followed for the first {EVENTS_MAX} events")
        places = [place for place in self._facts.records if place not in self._places][:EVENTS_MAX]
        self._sought.update(new)
        self._places.update(places)
        self._each(lambda database: database.receive(new, places))

    def _identities(self) -> list[Identity]:
        """Return the events of the story."""
        found = [record.identity for record in self._facts.records.values() if record.event_id]
        for service, known in self._facts.services.items():
            found += [(service, one) for one in (*known.outbox, *known.schedule, *known.claimed)]
            found += [(one.source, one.event_id) for one in known.letters.values() if one.event_id]
            found += [(one.source, one.event_id) for one in known.parked.values()]
        if source := source_of(self._wanted):
            found.append((source, self._wanted))
        return list(dict.fromkeys(found))

    def _look_up_causes(self) -> None:
        """Read the records that have caused an event of the story, each at its place."""
        if self._topics is None:
            return
        for source, event_id in sorted(self._sought):
            cause = cause_of(source, event_id)
            if cause is None or cause.place is None or cause.place in self._facts.records:
                continue
            if cause.place in self._causes or not self._is_current(source, cause.place, cause.epoch):
                continue
            self._causes.add(cause.place)
            if (found := self._topics.one(cause.place)) is not None:
                self._facts.records[cause.place] = found

    def _is_current(self, service: str, place: Place, epoch: int) -> bool:
        """Whether a place is that of the topic as it is now, and not of one that was created again since."""
        known = self._facts.services.get(service)
        position = known.positions.get(place.input) if known else None
        return position is None or position.epoch == epoch

    def _look_up_effects(self) -> None:
        """Look in the logs of claims for what was published about the records of the story."""
        ids = [event_id for _, event_id in self._sought]
        self._each(lambda database: database.follow(self._effects(database), ids))
        if self._topics is not None:
            self._find_claimed(self._topics)

    def _effects(self, database: Database) -> list[tuple[datetime, str]]:
        """Return when a service handled the records of the story, with the beginning of the ids of their effects; and
        when requests published, with these ids.
        """
        known, service = database.known, database.service
        asked = cause_of(source_of(self._wanted), self._wanted)
        effects = [(asked.began, self._wanted)] if asked is not None and asked.began is not None else []
        for found in self._facts.records.values():
            if _of_request(service, found):
                effects.append((found.decided_at or found.written, found.event_id))
            if found.place in self._causes or (at := known.handled.get(found.identity)) is None:
                continue
            position = known.positions.get(found.place.input)
            begin = f"{service}:{found.place.topic}-{found.place.partition}.{position.epoch if position else 0}"
            effects.append((at, f"{begin}.{found.place.offset}."))
        return effects

    def _find_claimed(self, topics: Topics) -> None:
        """Read the records of effects that are under other keys, near the time of their claims."""
        there = {found.identity for found in self._facts.records.values()}
        for service, known in self._facts.services.items():
            for claim in list(known.claimed.values()):
                where = (service, claim.event_id)
                waiting = known.outbox.get(claim.event_id)
                if where in there or where in self._looked_for or (waiting is not None and not waiting.claimed):
                    continue
                if len(self._looked_for) >= OTHER_KEYS_MAX:
                    self.miss(f"of effects under other keys, {OTHER_KEYS_MAX} were looked for in the topics")
                    return
                self._looked_for.add(where)
                found = topics.near(claim.topic, claim.at - NEAR, NEAR_RECORDS, claim.event_id)
                self._facts.records |= {one.place: one for one in found}

    # ---- the end

    def _look_again(self, database: Database) -> None:
        """The databases were looked at before the topics: what waited may be published since."""
        service = database.service
        database.look_again({one.event_id for one in self._facts.records.values() if one.source == service})

    def _find_requests(self) -> None:
        """Look for the requests with which events of the story began."""
        self._each(self._find_requests_in)

    def _find_requests_in(self, database: Database) -> None:
        service, known = database.service, database.known
        began = [found.decided_at for found in self._facts.records.values() if _of_request(service, found)]
        began += [one.since for one in (*known.outbox.values(), *known.schedule.values())]
        database.find_requests([at for at in began if at is not None][:EVENTS_MAX], self._keys)

    def _find_decisions_in(self, database: Database) -> None:
        waited = [
            (found.place.topic, found.written, database.known.handled.get(found.identity, _LATER))
            for found in self._facts.records.values()
            if found.place.input in database.known.positions
        ]
        database.find_decisions(self._keys, [self._wanted], waited[:EVENTS_MAX])

    def _story(self) -> Story:
        missed = dict(self._missed)
        for one in (*self._databases, self._topics):
            missed |= one.missed if one is not None else {}
        return Story(
            self._wanted,
            self._keys[-1],
            timeline(self._facts),
            tuple(in_lines(self._topics.looked)) if self._topics is not None else (),
            tuple(missed),
            away=self._topics is None or self._topics.away or not all(one.answers for one in self._databases),
            services=tuple(one.service for one in self._databases if one.answers),
        )


def _takes(service: Service) -> frozenset[tuple[str, str]]:
    events = {route.event for route in service.routes}
    return frozenset((event.topic, f"{event.__name__}.v{event.version}") for event in events)


def _of_request(service: str, found: Found) -> bool:
    cause = cause_of(service, found.event_id) if found.source == service else None
    return cause is not None and cause.request
