"""Batch handlers: what is refused where they are declared, and how they are called."""

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.declaration.rows import lock
from shared.errors import HandlingFailed, NotOwned, Reject, SessionMisused
from shared.events import Envelope, Event
from shared.postgres.handlers import Handlers
from shared.protocol.ports import Delivery, Input, Record
from shared.service import Service
from shared.session import Session
from shared.states import NONE, Machine, ignore, refuse, to
from shared.telemetry import log_context
from shared.testing import Scene


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "thing"

    id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default="NEW")
    seen: Mapped[int] = mapped_column(default=0)


class Happened(Event, topic="events", key="id"):
    id: str = "a"


class Ended(Event, topic="events", key="id"):
    id: str = "a"


class Told(Event, topic="told", key="id"):
    id: str = "a"
    n: int = 0


class Secret(Event, topic="told", key="id"):
    id: str = "a"


THINGS = Machine(
    Thing,
    ("NEW", "OLD"),
    {
        Happened: {NONE: refuse("none"), "NEW": to("OLD"), "OLD": ignore("it is old")},
        Ended: {NONE: refuse("none"), "NEW": to("OLD"), "OLD": ignore("it is old")},
    },
)

Pairs = Iterable[tuple[Happened, Told]]


def service() -> Service:
    return Service("things", publishes=(Told,))


def good(events: Sequence[Happened], session: Session) -> Pairs:
    return [(event, Told(id=event.id)) for event in events]


def streams(events: Iterable[Happened], session: Session) -> Iterator[tuple[Happened, Told]]:
    yield from good(list(events), session)


def of_any_event(events: Sequence[Event]) -> tuple[tuple[Event, Event], ...] | None:
    return None


def generates(events: Sequence[Happened]) -> Generator[tuple[Happened, Told], None, None]:
    yield events[0], Told()


def either(events: Sequence[Happened]) -> list[tuple[Happened, Told] | tuple[Happened, Event]]:
    return []


def anything(events: Any) -> Any:
    return None


@pytest.mark.parametrize("handler", [good, streams, of_any_event, generates, either, anything])
def test_a_function_of_events_and_a_session_is_a_batch_handler(handler: Any) -> None:
    made = service()
    assert made.on_batch(Happened)(handler) is handler
    assert [(route.handler, route.event, route.of_batch) for route in made.routes] == [(handler, Happened, True)]


async def later(events: Sequence[Happened]) -> Pairs:
    return []


async def streams_later(events: Sequence[Happened]) -> AsyncIterator[tuple[Happened, Told]]:
    yield events[0], Told()


def of_one(event: Happened) -> Pairs:
    return []


def of_a_list(events: list[Happened]) -> Pairs:
    return []


def of_another(events: Sequence[Ended]) -> Pairs:
    return []


def nothing() -> Pairs:
    return []


def untyped(events: Sequence[Happened]):  # type: ignore[no-untyped-def]  # noqa: ANN201
    return []


def causeless(events: Sequence[Happened]) -> Iterable[Told]:
    return []


def one_pair(events: Sequence[Happened]) -> tuple[Happened, Told]:
    return events[0], Told()


def mapping(events: Sequence[Happened]) -> dict[Happened, Told]:
    return {}


def turned(events: Sequence[Happened]) -> Iterable[tuple[Told, Happened]]:
    return []


def undeclared(events: Sequence[Happened]) -> Iterable[tuple[Happened, Told | Secret]]:
    return []


def one_row(events: Sequence[Happened], thing: Thing) -> None:
    pass


def row_by_no_field(events: Sequence[Happened], things: Annotated[Mapping[str, Thing], lock(by="thing_id")]) -> None:
    pass


def with_more(events: Sequence[Happened], more: str) -> None:
    pass


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (later, "the batch handler of Happened, later is async; .* write it with `def`"),
        (streams_later, "is async"),
        (of_one, r"`event` is declared as Happened, and would be given a `Sequence\[Happened\]`"),
        (of_a_list, r"declared as list\[.*Happened\], and would be given a `Sequence\[Happened\]`"),
        (of_another, r"`events` is declared as .*Ended\], and would be given"),
        (nothing, "its first parameter is the events, and it takes none"),
        (untyped, r"it has no return type: write `-> Iterable\[tuple\[Happened, Told\]\]` for what it publishes"),
        (causeless, r"returns what it publishes with its cause, `-> Iterable\[tuple\[Happened, Told\]\]`, or None"),
        (one_pair, "with its cause"),
        (mapping, "with its cause"),
        (turned, "with its cause"),
        (undeclared, "it returns Secret, which is not published: add it to `publishes`"),
        (one_row, r"`thing` is one Thing, and .* declare `Mapping\[..., Thing\]`, the rows of all its events"),
        (row_by_no_field, r"`things` is the Thing that Happened\.thing_id names, and there is no such field"),
        (
            with_more,
            r"`more` is declared as str; besides the events a handler takes `session: Session`, and rows: `M",
        ),
        (Thing, "Thing, is not a function"),
        (None, "is not a function"),
    ],
)
def test_anything_else_is_refused_with_a_sentence(handler: Any, why: str) -> None:
    made = service()
    with pytest.raises(TypeError, match=why):
        made.on_batch(Happened)(handler)
    assert made.routes == ()


def test_an_event_is_handled_one_at_a_time_or_in_batches() -> None:
    def of_each(event: Happened) -> None:
        pass

    made = service()
    made.on(Happened)(of_each)
    with pytest.raises(TypeError, match=r"good, and .*of_each: one takes an event, .* both by `on`, or both by `on_b"):
        made.on_batch(Happened)(good)
    other = service()
    other.on_batch(Happened)(good)
    with pytest.raises(TypeError, match="one takes an event, the other all events of a batch"):
        other.on(Happened)(of_each)
    with pytest.raises(TypeError, match="is declared for it twice"):
        other.on_batch(Happened)(good)
    with pytest.raises(TypeError, match="takes one type of event: declare it once for each"):
        other.on_batch(Happened, Ended)  # type: ignore[arg-type]


def test_a_batch_handler_says_that_it_moves_rows_itself() -> None:
    with pytest.raises(TypeError, match=r"moves its rows itself, .* `@service.on_batch\(Happened, None\)`, or handle"):
        service().on_batch(Happened, THINGS)(good)  # type: ignore[arg-type]

    made = service()

    @made.on(Ended, THINGS)
    def end(event: Ended, thing: Thing) -> None:
        pass

    made.on_batch(Happened)(good)
    with pytest.raises(TypeError, match=r"good: the table of thing has a row for Happened, .* `@service.on_batch\(Hap"):
        Handlers(made)
    said = service()
    said.on(Ended, THINGS)(end)
    said.on_batch(Happened, None)(good)
    Handlers(said)


def counts(calls: list[list[str]]) -> Service:
    """Return a service that notes the calls of its batch handlers, and counts what they see in rows."""
    made = service()

    @made.on_batch(Happened)
    def see(events: Sequence[Happened], things: Mapping[str, Thing]) -> Pairs:
        calls.append([event.id for event in events])
        assert len({id(event) for event in events}) == len(events), "each is read from a record of its own"
        for event in events:
            things[event.id].seen += 1
            yield event, Told(id=event.id, n=things[event.id].seen)

    @made.on_batch(Ended)
    def end(events: Sequence[Ended], session: Session) -> None:
        calls.append(["end", *(event.id for event in events)])
        for event in events:
            thing = session.lock(Thing, event.id)
            assert thing is not None
            thing.seen = 0

    return made


def test_events_of_one_type_that_follow_each_other_are_one_call() -> None:
    """Two that are equal are two, and the order among types is that of the records."""
    calls: list[list[str]] = []
    scene = Scene(counts(calls), Thing(id="a"), Thing(id="b"))
    a = Happened(id="a")
    published = scene.when(a, Happened(id="b"), a, Ended(id="a"), Happened(id="a"))
    assert calls == [["a", "b", "a"], ["end", "a"], ["a"]]
    assert published == [Told(id="a", n=1), Told(id="b", n=1), Told(id="a", n=2), Told(id="a", n=1)]


def test_rows_of_a_batch_are_those_of_its_events_that_exist() -> None:
    made = service()
    seen: list[list[str]] = []

    @made.on_batch(Happened)
    def see(
        events: Sequence[Happened],
        things: Mapping[str, Thing],
        others: Annotated[Mapping[str, Thing], lock(by=lambda event: (f"{event.id}1", f"{event.id}2"))],
    ) -> None:
        seen.extend([sorted(things), sorted(others)])
        with pytest.raises(LookupError, match="there is no Thing 'b', or it was not asked for"):
            things["b"]

    scene = Scene(made, *(Thing(id=key) for key in ("a", "a1", "b2", "c")))
    scene.when(Happened(id="a"), Happened(id="b"))
    assert seen == [["a"], ["a1", "b2"]]


def returning(what: Callable[[Sequence[Happened]], Any]) -> Service:
    made = service()

    @made.on_batch(Happened)
    def handler(events: Sequence[Happened], things: Mapping[str, Thing]) -> Pairs:
        return what(events)  # type: ignore[no-any-return]

    return made


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (lambda events: None, "handler returned nothing; a batch handler returns a tuple or a list of `"),
        (lambda events: Told(), r"handler returned Told; a batch handler returns a tuple or a list of `\(cause, event"),
        (lambda events: [Told()], r"returned a Told without its cause: return `\(cause, event\)`"),
        (lambda events: [(events[0],)], "returned a tuple without its cause"),
        (lambda events: events, "returned a Happened without its cause"),
        (lambda events: [(Happened(id="a"), Told())], "because of a Happened that it was not given: .* not a copy"),
        (lambda events: [(Told(), events[0])], "returned a Happened because of a Told that it was not given"),
        (lambda events: [(events[0], "told")], "returned a str to publish, which is no event"),
        (lambda events: [(events[0], Secret())], "things does not publish Secret"),
    ],
)
def test_an_event_without_a_cause_in_the_batch_is_refused(what: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        Scene(returning(what), Thing(id="a")).when(Happened(id="a"), Happened(id="a"))


def test_an_event_is_published_for_a_row_that_is_held() -> None:
    with pytest.raises(NotOwned, match="'z'"):
        Scene(returning(lambda events: [(events[0], Told(id="z"))])).when(Happened(id="a"))


def test_publish_does_not_know_the_cause() -> None:
    made = service()

    @made.on_batch(Happened)
    def publishes(events: Sequence[Happened], session: Session) -> None:
        session.publish(Told())

    with pytest.raises(SessionMisused, match=r"Told is published by a batch handler without its cause: return `\(cau"):
        Scene(made, Thing(id="a")).when(Happened())


def delivery(offset: int, event: Event | None = None) -> Delivery:
    record = Record(Input("events", 0), offset, b"a", b"{}", None)
    event = event or Happened()
    return Delivery(record, Envelope(f"id-{offset}", "s", type(event).__name__, 1, "", "a", b"{}"), event, 0)


def run(made: Service, *deliveries: Delivery) -> list[tuple[int, Event]]:
    """Handle deliveries as a worker does, without a database; return what is published, each with its offset."""
    published: list[tuple[int, Event]] = []

    def collect(one: Delivery, events: Iterable[Event]) -> None:
        published.extend((one.record.offset, event) for event in events)

    Handlers(made).run(deliveries, Session(create_engine("postgresql+psycopg://nowhere")), collect)
    return published


def test_what_is_published_belongs_to_the_record_of_its_cause() -> None:
    made = service()
    made.on_batch(Happened)(last_first)
    assert run(made, *(delivery(n, Happened(id=str(n))) for n in range(3))) == [
        (2, Told(id="2")),
        (1, Told(id="1")),
        (0, Told(id="0")),
    ]


def last_first(events: Sequence[Happened]) -> Pairs:
    return [(event, Told(id=event.id)) for event in reversed(events)]


def test_several_batch_handlers_of_a_type_take_all_events_in_turn() -> None:
    made = service()
    made.on_batch(Happened)(good)
    made.on_batch(Happened)(last_first)
    offsets = [offset for offset, _ in run(made, delivery(0), delivery(1))]
    assert offsets == [0, 1, 1, 0]


@pytest.mark.parametrize("error", [Reject("no"), SystemExit(3), ZeroDivisionError()], ids=repr)
def test_a_failure_is_that_of_a_record_only_if_it_is_alone(error: BaseException) -> None:
    made = service()

    @made.on_batch(Happened)
    def fails(events: Sequence[Happened]) -> None:
        raise error

    for deliveries, culprit in (((delivery(5), delivery(6)), None), ((delivery(7),), delivery(7).record)):
        with pytest.raises(HandlingFailed) as failed:
            run(made, *deliveries)
        assert failed.value.record == culprit
        assert isinstance(failed.value.__cause__, Exception)


def test_what_is_at_work_is_named_with_its_records() -> None:
    made = service()
    seen: list[Any] = []

    @made.on_batch(Happened)
    def looks(events: Sequence[Happened]) -> None:
        seen.append((handlers.at, log_context.add(None, "", {})))

    handlers = Handlers(made)
    session = Session(create_engine("postgresql+psycopg://nowhere"))
    handlers.run([delivery(1), delivery(2)], session, lambda *_: None)
    handlers.run([delivery(3)], session, lambda *_: None)

    (several, told), (alone, told_alone) = seen
    assert ([record.offset for record in several.records], several.handler) == ([1, 2], looks.__qualname__)
    assert told == {"handler": looks.__qualname__, "events": 2, "event_type": "Happened.v1", "topic": "events"}
    assert [record.offset for record in alone.records] == [3]
    assert (told_alone["handler"], told_alone["event_id"], told_alone["offset"]) == (looks.__qualname__, "id-3", 3)
    assert handlers.at is None
    assert handlers.places([delivery(1)] * 3)[0].endswith("looks: handles Happened.v1, 3 in this batch")
