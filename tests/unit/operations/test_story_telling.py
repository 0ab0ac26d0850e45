"""A story is collected from what several services and the topics know: by its key, or from an event of it."""

import zlib
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from shared.operations import story_telling
from shared.operations.story_facts import Claimed, Found, Identity, Known, Letter, Place
from shared.operations.story_telling import OTHER_KEYS_MAX, ROUNDS_MAX, Story, _Telling
from shared.operations.story_topics import Bounds
from shared.protocol.ports import Input, Position
from shared.service import Service

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
PARTITIONS = 3
PLACED = "order:019ac123-0000-7000-8000-000000000000"


def partition(key: str) -> int:
    return zlib.crc32(key.encode()) % PARTITIONS


def place(topic: str, key: str, offset: int) -> Place:
    return Place(topic, partition(key), offset)


def caused(service: str, by: Place, event: str, epoch: int = 0) -> str:
    return f"{service}:{by.topic}-{by.partition}.{epoch}.{by.offset}.{event}.0"


def found(at: Place, key: str, event_id: str, event: str) -> Found:
    return Found(at, NOON, key, event_id.partition(":")[0], event_id, f"{event}.v1", NOON.isoformat())


class Database:
    """A service's database; `has` is what there is in it to be found."""

    def __init__(self, service: str, has: Known, *, answers: bool = True) -> None:
        self.service, self.answers = service, answers
        self.known = Known(positions=has.positions, topics=has.topics)
        self.missed: dict[str, None] = {}
        self._has = has

    def look(self, keys: Collection[str], ids: Collection[str] = ()) -> None:
        letters = self._has.letters.items()
        self.known.letters |= {n: one for n, one in letters if one.key in keys or one.event_id in ids}

    def receive(self, identities: Collection[Identity], places: Collection[Place]) -> None:
        self.known.handled |= {one: at for one, at in self._has.handled.items() if one in identities}
        self.known.letters |= {n: one for n, one in self._has.letters.items() if one.place in places}

    def follow(self, effects: Collection[tuple[datetime, str]], ids: Collection[str]) -> None:
        for one in self._has.claimed.values():
            if one.event_id in ids or any(one.event_id.startswith(begin) for _, begin in effects):
                self.known.claimed[one.event_id] = one

    def look_again(self, published: Collection[str]) -> None:
        self.again = set(published)

    def find_requests(self, moments: Collection[datetime], keys: Collection[str]) -> None:
        self.asked = list(moments), list(keys)

    def find_decisions(self, keys: Collection[str], ids: Collection[str], waited: Collection[object]) -> None:
        pass


class Topics:
    """The topics; `log` has their records."""

    away = False

    def __init__(self, *log: Found) -> None:
        self.log = log
        self.looked: dict[str, None] = {}
        self.missed: dict[str, None] = {}
        self.names: list[str] = []
        self.read_inputs: list[Input] = []

    def know(self, own: Collection[str], others: Collection[str]) -> None:
        self.names = sorted({*own, *others})

    def inputs(self, topic: str, key: str | None = None) -> list[Input]:
        return [Input(topic, n) for n in range(PARTITIONS) if key is None or n == partition(key)]

    def read(
        self, inputs: Collection[Input], wanted: Callable[[bytes, Mapping[str, str]], bool], records: int = 0
    ) -> list[Found]:
        self.read_inputs += inputs
        return [
            one
            for one in self.log
            if one.place.input in inputs and wanted(one.key.encode(), {"ce_id": one.event_id, "ce_type": one.event})
        ]

    def one(self, at: Place) -> Found | None:
        return next((one for one in self.log if one.place == at), None)

    def near(self, topic: str, since: datetime, records: int, event_id: str) -> list[Found]:
        return [one for one in self.log if one.place.topic == topic and one.event_id == event_id and since < NOON]


def tell(wanted: str, topics: Topics | None, *databases: Database, bounds: Bounds | None = None) -> Story:
    context: Any = SimpleNamespace(service=Service("order"))
    given: Any = databases
    read: Any = topics
    with ThreadPoolExecutor(2) as pool:
        return _Telling(context, given, read, wanted=wanted, bounds=bounds or Bounds(), pool=pool).tell()


def steps(story: Story) -> list[str]:
    return [f"{one.entry.service} {one.entry.what} {one.entry.event.removesuffix('.v1')}" for one in story.entries]


KEY = "o-1"
ORDERED = place("order.events", KEY, 7)
RESERVED = caused("inventory", ORDERED, "StockReserved")
STOCKED = place("inventory.events", KEY, 4)
LOW = caused("inventory", ORDERED, "StockLow")
LOWERED = place("stock.events", "tea", 2)
REFILL = caused("supplier", LOWERED, "Refilled")
LOG = (
    found(ORDERED, KEY, PLACED, "OrderPlaced"),
    found(STOCKED, KEY, RESERVED, "StockReserved"),
    found(place("order.events", KEY, 9), "another key of the partition", "order:x", "OrderPlaced"),
    found(LOWERED, "tea", LOW, "StockLow"),
    found(place("stock.events", "tea", 3), "tea", "inventory:other", "StockLow"),
)


def services() -> tuple[Database, Database, Database]:
    known = {
        "order": Known(handled={("inventory", RESERVED): NOON}, topics=frozenset({"order.events", "inventory.events"})),
        "inventory": Known(
            positions={ORDERED.input: Position(100, 0)},
            handled={("order", PLACED): NOON},
            topics=frozenset({"order.events", "stock.events", "inventory.outbox"}),
            claimed={LOW: Claimed(LOW, "stock.events", 0, 5, NOON)},
        ),
        "supplier": Known(
            handled={("inventory", LOW): NOON},
            topics=frozenset({"stock.events"}),
            claimed={REFILL: Claimed(REFILL, "supplier.events", 0, 6, NOON)},
        ),
    }
    order, inventory, supplier = (Database(name, one) for name, one in known.items())
    return order, inventory, supplier


WHOLE = [
    "order published OrderPlaced",
    "inventory handled OrderPlaced",
    "inventory published StockLow",
    "inventory published StockReserved",
    "order handled StockReserved",
    "supplier handled StockLow",
    "supplier claimed Refilled",
]


def test_effects_under_other_keys_belong_to_the_story_and_those_keys_do_not() -> None:
    topics = Topics(*LOG)

    story = tell(KEY, topics, *services())

    assert sorted(steps(story)) == sorted(WHOLE)
    assert story.key == KEY
    assert {source.partition for source in topics.read_inputs} == {partition(KEY)}
    assert "inventory.outbox" not in topics.names


@pytest.mark.parametrize("wanted", [PLACED, RESERVED])
def test_of_an_event_it_is_the_story_of_its_key(wanted: str) -> None:
    story = tell(wanted, Topics(*LOG), *services())

    assert (story.wanted, story.key) == (wanted, KEY)
    assert sorted(steps(story)) == sorted(WHOLE)


def test_of_an_event_that_is_nowhere_it_is_the_story_of_its_cause() -> None:
    lost = caused("inventory", ORDERED, "StockVanished")

    story = tell(lost, Topics(*LOG), *services())

    assert story.key == KEY
    assert sorted(steps(story)) == sorted(WHOLE)
    assert story.missed == (f"{lost} was not found: this is the story of {ORDERED}, which its id names as its cause",)


def test_a_cause_under_another_key_is_looked_up_by_its_place() -> None:
    order, inventory, supplier = services()
    inventory._has.claimed[RESERVED] = Claimed(RESERVED, "inventory.events", 0, 6, NOON)

    told = steps(tell("tea", Topics(*LOG), order, inventory, supplier))

    assert told == ["inventory published StockLow", *WHOLE[:3], *WHOLE[5:]], "the first has no known cause"


def test_a_place_of_a_topic_as_it_was_before_is_not_looked_up() -> None:
    event = caused("inventory", ORDERED, "StockLow", epoch=4)
    later = found(place("stock.events", "tea", 9), "tea", event, "StockLow")

    story = tell("tea", Topics(LOG[0], later), *services())

    assert steps(story) == ["inventory published StockLow"]


def test_rows_are_looked_for_again_when_their_records_are_there() -> None:
    at = place("order.events", "o-1", 7)
    order = Database("order", Known(topics=frozenset({"order.events"})))
    inventory = Database("inventory", Known())

    tell("o-1", Topics(found(at, "o-1", PLACED, "OrderPlaced")), order, inventory)

    assert (order.again, inventory.again) == ({PLACED}, set())


def test_without_topics_the_databases_tell_what_they_know() -> None:
    order, inventory, supplier = services()
    letter = Letter(3, ORDERED, 0, KEY, "ValueError", "", NOON, event_id=PLACED, source="order", event="OrderPlaced.v1")
    inventory._has.letters = {3: letter}

    story = tell(PLACED, None, order, inventory, supplier)

    assert story.key == KEY
    assert story.away
    assert steps(story)[:2] == ["inventory set aside OrderPlaced", "inventory handled OrderPlaced"]


def test_a_strangers_event_is_found_by_its_id_and_its_partition_by_its_dead_letter() -> None:
    elsewhere = Place("order.events", (partition("x") + 1) % PARTITIONS, 1)
    foreign = Found(elsewhere, NOON, "x", "crm", "7f3a", "Changed.v1")
    behind = Found(elsewhere._replace(offset=2), NOON, "x", "crm", "7f3b", "Changed.v1")

    found_by_id = tell("7f3a", Topics(foreign), *services())
    letter = Letter(3, elsewhere, 0, "x", "ValueError", "", NOON)
    order, inventory, supplier = services()
    inventory._has.letters = {3: letter}
    by_key = tell("x", Topics(foreign, behind), order, inventory, supplier)

    assert (found_by_id.key, steps(found_by_id)) == ("x", ["crm published Changed"])
    assert steps(by_key).count("crm published Changed") == 2
    assert steps(tell("x", Topics(foreign), *services())) == []
    assert steps(tell("x", Topics(foreign), *services(), bounds=Bounds(everywhere=True))) == ["crm published Changed"]


def test_a_database_that_does_not_answer_is_left_out() -> None:
    order, inventory, _ = services()
    away = Database("supplier", Known(), answers=False)
    away.missed["supplier: its database could not be asked"] = None

    story = tell(KEY, Topics(*LOG), order, inventory, away)

    assert story.services == ("order", "inventory")
    assert story.away
    assert story.missed == ("supplier: its database could not be asked",)


def test_of_a_silent_database_it_is_not_said_that_it_denies_a_record() -> None:
    _, inventory, _ = services()

    story = tell(KEY, Topics(*LOG), inventory, Database("order", Known(), answers=False))

    (placed,) = (one.entry for one in story.entries if one.entry.event_id == PLACED and one.entry.what == "published")
    assert "the database of order did not answer" in placed.detail
    assert "no service" not in placed.detail


def test_requests_are_looked_for_when_an_event_of_one_was_decided() -> None:
    order, inventory, supplier = services()

    tell(KEY, Topics(*LOG), order, inventory, supplier)

    assert order.asked == ([NOON], [KEY])
    assert inventory.asked == ([], [KEY])


def test_a_chain_without_end_is_followed_for_some_rounds() -> None:
    chain = [found(Place("order.events", partition(KEY), 0), KEY, PLACED, "OrderPlaced")]
    handled: dict[Identity, datetime] = {("order", PLACED): NOON}
    claimed = {}
    for n in range(1, 60):
        at = Place("stock.events", n % PARTITIONS, n)
        event_id = caused("inventory", chain[-1].place, "StockLow")
        chain.append(found(at, f"key {n}", event_id, "StockLow"))
        handled["inventory", event_id] = NOON
        claimed[event_id] = Claimed(event_id, "stock.events", 0, n, NOON)
    known = Known(handled=handled, claimed=claimed, topics=frozenset({"order.events", "stock.events"}))

    story = tell(KEY, Topics(*chain), Database("inventory", known))

    assert 2 * ROUNDS_MAX <= len(story.entries) <= 2 * ROUNDS_MAX + 2
    assert story.missed == (f"causes and effects were followed for {ROUNDS_MAX} rounds, and there may be more",)


def test_of_very_many_effects_some_are_looked_for_and_all_are_named() -> None:
    claimed = {}
    for n in range(50):
        event_id = f"inventory:order.events-{ORDERED.partition}.0.7.StockLow.{n}"
        claimed[event_id] = Claimed(event_id, "stock.events", 0, n, NOON)
    known = Known(handled={("order", PLACED): NOON}, claimed=claimed, topics=frozenset({"order.events"}))

    story = tell(KEY, Topics(LOG[0]), Database("inventory", known))

    assert steps(story).count("inventory claimed StockLow") == 50
    assert story.missed == (f"of effects under other keys, {OTHER_KEYS_MAX} were looked for in the topics",)


def test_of_very_many_events_some_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story_telling, "EVENTS_MAX", 5)
    log = [found(place("order.events", KEY, n), KEY, f"order:{n}", "Changed") for n in range(20)]

    story = tell(KEY, Topics(*log), Database("order", Known(topics=frozenset({"order.events"}))))

    assert len(story.entries) == 20
    assert story.missed == ("causes and effects were followed for the first 5 events",)
