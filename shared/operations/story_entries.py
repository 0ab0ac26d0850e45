"""The timeline of a story: what is known becomes entries, sorted so that every cause comes before its effects.

Clocks differ: a record has the time of its producer, a row that of its database. So the times decide only between
entries of which none has caused the other. What causes what is read from the ids of the events, and from the order in
which an event goes from a handler to the next one.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from ..postgres.dead_letters import RecordSetAside
from .story_facts import Asked, Cause, Facts, Found, Identity, Known, Letter, Parked, Place, Waiting, cause_of

What = Literal[
    "request",
    "call",
    "scheduled",
    "in outbox",
    "claimed",
    "published",
    "waits",
    "parked",
    "set aside",
    "dismissed",
    "redriven",
    "handled",
    "decision",
]

BEFORE: Mapping[What, int] = {"scheduled": 0, "in outbox": 1, "claimed": 2, "published": 3}
"""The way of an event until it is in its topic."""

AFTER: Mapping[What, int] = {"parked": 0, "waits": 0, "set aside": 1, "dismissed": 2, "redriven": 3, "handled": 4}
"""Its way in each service that consumes it."""

REQUEST = timedelta(seconds=60)
"""What a request publishes is decided within its transaction, which HTTP_REQUEST_SECONDS_MAX ends: 20 s by default.
What it has scheduled is decided when it is due."""

_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Entry:
    """Something that happened, or that has not happened yet."""

    what: What
    service: str
    when: datetime | None
    """By the clock that noted it: of the database, or of the record's producer. None: it has not happened yet."""
    event_id: str = ""
    """Of the event, or of the call."""
    event: str = ""
    """Its type, with the version."""
    source: str = ""
    key: str = ""
    topic: str = ""
    partition: int | None = None
    offset: int | None = None
    caused_by: str = ""
    """The id of the event that was handled, or of the call that was answered, or `a request`."""
    decided: datetime | None = None
    """When the database of its source recorded it, by its clock; of an event that was found in a topic."""
    detail: str = ""
    traceparent: str | None = None
    value: str | None = None
    """The beginning of the event's JSON, if it was asked for."""

    @property
    def identity(self) -> Identity:
        return self.source, self.event_id

    @property
    def place(self) -> Place | None:
        if self.partition is None or self.offset is None:
            return None
        return Place(self.topic, self.partition, self.offset)


@dataclass(frozen=True)
class Told:
    """An entry in its place."""

    number: int
    entry: Entry
    because: int | None
    """The number of the latest entry that has led to it; always a lower one."""


def timeline(facts: Facts) -> list[Told]:
    """Return all that is known, causes before effects."""
    return ordered(entries(facts))


def entries(facts: Facts) -> list[Entry]:
    """Return an entry for each piece of what is known, without an order."""
    made = [
        *_records(facts),
        *(entry for service, known in facts.services.items() for entry in _of_service(facts, service, known)),
    ]
    return list(dict.fromkeys(made))


def _records(facts: Facts) -> Iterator[Entry]:
    first: dict[Identity, Place] = {}
    for place, found in sorted(facts.records.items()):
        before = first.setdefault(found.identity, place) if found.event_id else place
        yield _record(facts, found, None if before == place else before)


def _record(facts: Facts, found: Found, before: Place | None) -> Entry:
    claimed = facts.services[found.source].claimed.get(found.event_id) if found.source in facts.services else None
    passed = [
        f"{service} has passed it and does not know it: {_why(known)}"
        for service, known in facts.services.items()
        if (position := known.positions.get(found.place.input)) is not None
        and position.next_offset > found.place.offset
        and known.may_take(found)
        and not _touched(known, found)
    ]
    return Entry(
        "published",
        found.source,
        found.written,
        found.event_id,
        found.event,
        found.source,
        found.key,
        *found.place,
        _cause(found.source, found.event_id),
        found.decided_at,
        _line(
            before and f"again, as {before} before: who has that one drops this one",
            claimed and f"lane {claimed.lane}, claim {claimed.position}",
            *passed,
            _unconfirmed(facts, found.source),
        ),
        found.traceparent,
        found.value,
    )


def _unconfirmed(facts: Facts, source: str) -> str:
    """Say why its source does not confirm a record; nothing if it was asked."""
    if source in facts.silent:
        return f"the database of {source} did not answer"
    return "" if source in facts.services else "no service that was asked has published it"


def _why(known: Known) -> str:
    long_ago = "it was skipped, or came before what its inbox remembers"
    return long_ago if known.takes is not None else f"no handler takes it, {long_ago}"


def _touched(known: Known, found: Found) -> bool:
    """Whether a service has done something about a record, or has it."""
    at = found.place
    return (
        found.identity in known.handled or at in known.parked or any(at == one.place for one in known.letters.values())
    )


def _of_service(facts: Facts, service: str, known: Known) -> Iterator[Entry]:
    for request in known.requests.values():
        answered = f"answered {request.status}" if request.status is not None else "not answered yet"
        detail = _line(request.scope, answered, f"Idempotency-Key {request.key}")
        yield Entry("request", service, request.at, detail=detail)
    for row in known.schedule.values():
        detail = _line(f"as {row.name}", row.due and f"due {row.due:%Y-%m-%d %H:%M:%S}")
        yield _waiting("scheduled", service, row, detail)
    published = {found.event_id for found in facts.records.values() if found.source == service}
    for row in known.outbox.values():
        if row.claimed and row.event_id in published:  # deleted by the next batch or report
            continue
        state = "claimed: it is being published, or just was" if row.claimed else "waits for the next claim"
        yield _waiting("in outbox", service, row, _line(f"lane {row.lane}", state))
    seen = published | known.outbox.keys()
    for claim in known.claimed.values():
        if claim.event_id not in seen:
            yield Entry(
                "claimed",
                service,
                claim.at,
                claim.event_id,
                _type(claim.event_id),
                service,
                topic=claim.topic,
                caused_by=_cause(service, claim.event_id),
                detail=_line(f"lane {claim.lane}, claim {claim.position}", "its record was not found"),
            )
    for call in known.calls.values():
        yield _call(service, call)
    for letter in known.letters.values():
        yield from _letter(service, known, letter, facts.records)
    for parked in known.parked.values():
        yield _parked(service, parked, facts.records)
    waiting = {(parked.source, parked.event_id) for parked in known.parked.values()}
    for identity, at in known.handled.items():
        if identity not in waiting:  # it entered the inbox when it was parked
            yield _handled(service, known, identity, at, facts.records)
    for decided in known.decisions.values():
        detail = _line(
            f"{decided.id}: {decided.command} {decided.target}", decided.by and f"by {decided.by}", decided.reason
        )
        yield Entry("decision", service, decided.at, detail=detail)
    yield from _waits(facts, service, known)


def _waiting(what: What, service: str, waiting: Waiting, detail: str) -> Entry:
    return Entry(
        what,
        service,
        waiting.since,
        waiting.event_id,
        waiting.event,
        service,
        waiting.key,
        waiting.topic,
        caused_by=_cause(service, waiting.event_id),
        detail=detail,
        traceparent=waiting.traceparent,
        value=waiting.value,
    )


def _call(service: str, call: Asked) -> Entry:
    done = f"{call.to} may have done it" if call.maybe_done else f"{call.to} has not got it"
    return Entry(
        "call",
        service,
        call.since,
        call.event_id,
        call.event,
        service,
        call.key,
        caused_by=_cause(service, call.event_id),
        detail=_line(
            f"call {call.id} to {call.to} is not finished",
            (call.attempts > 0 or not call.stuck) and f"asked {call.attempts} times",
            done,
            call.stuck and "stuck: the service's own code fails",
            call.failure,
        ),
    )


def _letter(service: str, known: Known, letter: Letter, events: Mapping[Place, Found]) -> Iterator[Entry]:
    found = events.get(letter.place)
    source, event_id = (letter.source, letter.event_id) if letter.event_id else found.identity if found else ("", "")
    common: dict[str, Any] = {
        "event_id": event_id,
        "event": letter.event or (found.event if found else ""),
        "source": source,
        "key": letter.key,
        "topic": letter.place.topic,
        "partition": letter.place.partition,
        "offset": letter.place.offset,
        "traceparent": letter.traceparent,
        "value": letter.value,
    }
    open_ = letter.redriven is None and letter.dismissed is None
    state = "it waits for `dead-letters redrive`" if open_ else None
    detail = _line(f"dead letter {letter.id}", f"{letter.error}: {_first(letter.detail)}", state)
    yield Entry("set aside", service, letter.set_aside, detail=detail, **common)
    if letter.dismissed is not None:
        detail = _line(f"dead letter {letter.id}", f"by decision {letter.dismissed_by}")
        yield Entry("dismissed", service, letter.dismissed, detail=detail, **common)
    at = known.handled.get((source, event_id))
    if letter.redriven is not None and (at is None or at < letter.set_aside):
        effect = "its event is not in the inbox any more" if at is None else "it had taken effect before"
        detail = _line(f"dead letter {letter.id}", effect)
        yield Entry("redriven", service, letter.redriven, detail=detail, **common)


def _parked(service: str, parked: Parked, events: Mapping[Place, Found]) -> Entry:
    found = events.get(parked.place)
    tried = f"tried {parked.attempts} times" if parked.attempts else "behind another record of its key"
    return Entry(
        "parked",
        service,
        parked.since,
        parked.event_id,
        found.event if found else "",
        parked.source,
        parked.key,
        *parked.place,
        detail=_line(
            tried,
            parked.attempts > 0 and parked.due and f"again {parked.due:%H:%M:%S}",
            parked.error and f"{parked.error}: {_first(parked.detail or '')}",
        ),
    )


def _handled(service: str, known: Known, identity: Identity, at: datetime, events: Mapping[Place, Found]) -> Entry:
    of_event = [one for one in known.letters.values() if (one.source, one.event_id) == identity]
    named: list[Found | Letter] = [*events.values(), *of_event]
    found = next((one for one in named if (one.source, one.event_id) == identity), None)
    redriven = [
        one.id
        for one in known.letters.values()
        if one.redriven is not None
        and at >= one.set_aside
        and (one in of_event or (found is not None and one.place == found.place))
    ]
    detail = f"by redriving dead letter {max(redriven)}" if redriven else ""
    source, event_id = identity
    if found is None:
        return Entry("handled", service, at, event_id, _type(event_id), source, detail=detail)
    return Entry("handled", service, at, event_id, found.event, source, found.key, *found.place, detail=detail)


def _waits(facts: Facts, service: str, known: Known) -> Iterator[Entry]:
    """Yield the records that a service has not come to."""
    for place, found in facts.records.items():
        position = known.positions.get(place.input)
        if position is None or position.next_offset > place.offset:
            continue
        if _touched(known, found) or not known.may_take(found):
            continue
        trying = next((one for one in known.trying if one.input == place.input), None)
        now = trying and trying.first <= place.offset <= trying.last
        ahead = place.offset - position.next_offset
        yield Entry(
            "waits",
            service,
            None,
            found.event_id,
            found.event,
            found.source,
            found.key,
            *place,
            detail=_line(
                f"it has not come to it: the next offset is {position.next_offset}"
                + (f", {ahead:,} before it" if ahead else ""),
                place.topic in known.pauses and f"its input is paused by {known.pauses[place.topic]}",
                trying and now and not trying.stuck and f"its batch was begun {trying.since:%Y-%m-%d %H:%M:%S}",
                trying and trying.ended > 0 and f"{_processes(trying.ended)} ended at offset {trying.first}",
            ),
        )


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _type(event_id: str) -> str:
    """Return the type in an id that has one."""
    head, _, number = event_id.rpartition(".")
    return head.rpartition(".")[2] if number.isdecimal() else ""


def _cause(source: str, event_id: str) -> str:
    """Say what caused an event, as far as its id tells."""
    cause = cause_of(source, event_id)
    if cause is None:
        return ""
    if cause.call:
        return f"call {cause.call}"
    return str(cause.place) if cause.place else cause.run or "a request"


def _first(text: str) -> str:
    """Return the first line of an error; a database's goes on with its statement."""
    return text.partition("\n")[0]


def _line(*parts: object) -> str:
    return "; ".join(str(part) for part in parts if part)


# ---- the order


def ordered(made: Sequence[Entry]) -> list[Told]:
    """Sort entries: each after all that have led to it, and otherwise by their times. Ids that claim to have caused
    each other, which no service makes, are cut where the earliest time is.
    """
    leads = _leads(made)
    left = {n: len(before) for n, before in enumerate(leads)}
    follow: dict[int, list[int]] = defaultdict(list)
    for n, before in enumerate(leads):
        for one in before:
            follow[one].append(n)
    ready = [(_rank(made[n]), n) for n, count in left.items() if not count]
    heapq.heapify(ready)
    numbers: dict[int, int] = {}
    told: list[Told] = []
    while left:
        if not ready:
            heapq.heappush(ready, min((_rank(made[n]), n) for n in left))
        _, n = heapq.heappop(ready)
        if left.pop(n, None) is None:
            continue
        numbers[n] = len(told) + 1
        because = max((numbers[one] for one in leads[n] if one in numbers), default=None)
        told.append(Told(numbers[n], made[n], because))
        for one in follow[n]:
            if one in left:
                left[one] -= 1
                if not left[one]:
                    heapq.heappush(ready, (_rank(made[one]), one))
    return told


def _rank(entry: Entry) -> tuple[datetime, int, str, str, str, int]:
    stage = {**BEFORE, **AFTER}.get(entry.what, 0)
    return entry.when or _NEVER, stage, entry.service, entry.source, entry.event_id, entry.offset or 0


def _leads(made: Sequence[Entry]) -> list[set[int]]:
    """Return, for each entry, those that have led to it."""
    graph = _Graph(made)
    return [set(graph.leading_to(n)) - {n} for n in range(len(made))]


class _Graph:
    """Which entry leads to which."""

    def __init__(self, made: Sequence[Entry]) -> None:
        self._made = made
        self._before: dict[Identity, list[int]] = defaultdict(list)
        self._after: dict[tuple[Identity, str], list[int]] = defaultdict(list)
        self._at: dict[Place, set[Identity]] = defaultdict(set)
        self._calls: dict[str, int] = {}
        self._requests: dict[str, list[int]] = defaultdict(list)
        for n, entry in enumerate(made):
            identity = entry.identity if entry.event_id else ("", f"{entry.place}")
            if entry.what in BEFORE:
                self._before[identity].append(n)
            elif entry.what in AFTER:
                self._after[identity, entry.service].append(n)
            elif entry.what == "call":
                self._calls[entry.event_id] = n
            elif entry.what == "request":
                self._requests[entry.service].append(n)
            if entry.place is not None:
                self._at[entry.place].add(identity)

    def leading_to(self, n: int) -> Iterator[int]:
        entry = self._made[n]
        identity = entry.identity if entry.event_id else ("", f"{entry.place}")
        if entry.what in BEFORE:
            yield from self._earlier(self._before[identity], BEFORE[entry.what], BEFORE)
            yield from self._causes(entry)
        elif entry.what in AFTER:
            yield from self._before[identity]
            yield from self._earlier(self._after[identity, entry.service], AFTER[entry.what], AFTER)
        elif entry.what == "call":
            yield from self._causes(entry)

    def _earlier(self, found: Iterable[int], stage: int, stages: Mapping[What, int]) -> Iterator[int]:
        return (n for n in found if stages[self._made[n].what] < stage)

    def _causes(self, entry: Entry) -> Iterator[int]:
        cause = cause_of(entry.source, entry.event_id)
        if cause is None:
            return
        if cause.call and cause.call in self._calls:
            yield self._calls[cause.call]
        if cause.place is not None:
            yield from self._handling(cause.place, entry)
        elif cause.request:
            yield from self._asking(cause, entry)

    def _handling(self, place: Place, entry: Entry) -> Iterator[int]:
        """Yield what the source of an event did about the record that has caused it."""
        announced = entry.event.partition(".")[0] == RecordSetAside.__name__
        leading = ("set aside",) if announced else ("handled", "redriven")
        for identity in self._at.get(place, ()):
            done = [n for n in self._after[identity, entry.source] if self._made[n].what in leading]
            yield from done or self._before[identity]

    def _asking(self, cause: Cause, entry: Entry) -> Iterator[int]:
        """Yield the last request of the service before the event was decided, unless that was too long before."""
        moments = [moment for moment in (entry.decided or entry.when, cause.began) if moment is not None]
        if moments[1:] and moments[0] - moments[1] > REQUEST:
            moments.reverse()  # it was scheduled: its id was made during the request
        times = [(at, n) for n in self._requests[entry.source] if (at := self._made[n].when) is not None]
        for moment in moments:
            close = [(at, n) for at, n in times if abs(moment - at) < REQUEST]
            earlier = [pair for pair in close if pair[0] <= moment]
            if close:
                yield max(earlier, default=min(close))[1]
                return
