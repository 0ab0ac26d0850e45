"""Another number of lanes, and waiting until everything is published."""

import json
import threading
from collections import defaultdict
from collections.abc import Iterator

import pytest
from sqlalchemy import NullPool, create_engine, text

from dev.servers import Servers
from shared.errors import LanesDiffer
from shared.postgres.outbox import lane_hash
from shared.testing import until
from tests.integration.operations.test_positions import stop
from tests.integration.tallies import Tallies

KEYS = [f"key-{n}" for n in range(8)]


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    with Tallies(servers, partitions=2) as made:
        yield made


def published_by_key(tallies: Tallies) -> dict[str, list[int]]:
    """Return what is consumed of each key, in order."""
    found: dict[str, list[int]] = defaultdict(list)
    for record in tallies.read(tallies.told.topic):
        found[record.key().decode()].append(json.loads(record.value())["number"])
    return dict(found)


@pytest.mark.parametrize("die", ["unpublished", "published"])
def test_resize_keeps_the_order_of_every_key(tallies: Tallies, die: str) -> None:
    """The hard case: claims are under way, more rows wait, and the workers were killed."""
    for number in range(40):
        tallies.request(number, key=KEYS[number % 8])
    tallies.work(die=die, rows=5)
    for number in range(40, 80):
        tallies.request(number, key=KEYS[number % 8])
    tallies.settings = tallies.settings.model_copy(update={"partitions": 5})

    stop(tallies, LanesDiffer, "PARTITIONS is 5", "has 2 partitions", "2 lanes")
    assert tallies.run("lanes resize --yes") == 0

    (decision,) = tallies.decisions()
    assert (decision["command"], decision["before"]["lanes"], decision["after"]["lanes"]) == ("lanes resize", 2, 5)
    rows = tallies.sql("SELECT key || ' ' || lane FROM exactly_once_outbox")
    assert {row.split()[0]: int(row.split()[1]) for row in rows} == {key: lane_hash(key) % 5 for key in KEYS}
    for number in range(80, 96):
        tallies.request(number, key=KEYS[number % 8])
    tallies.work(rows=3)
    assert published_by_key(tallies) == {key: [n for n in range(96) if n % 8 == i] for i, key in enumerate(KEYS)}
    assert tallies.waiting() == []


def test_requests_go_on_while_lanes_are_resized(tallies: Tallies) -> None:
    """A request that has read the old number of lanes is waited for; one that comes later reads the new one."""
    engine = create_engine(tallies.settings.dsn(tallies.name), poolclass=NullPool)
    resized: list[int] = []
    tallies.request(1, key=KEYS[0])
    tallies.settings = tallies.settings.model_copy(update={"partitions": 7})
    with engine.connect() as connection, connection.begin():
        # A request under way: it has put its row into a lane by the old number, and has not committed.
        insert = text("""
            INSERT INTO exactly_once_outbox (lane, topic, key, event_id, event_type, event_version, data)
            SELECT :hash % (SELECT count(*)
                FROM exactly_once_lane), topic, :key, 'late', event_type, event_version, :data
            FROM exactly_once_outbox LIMIT 1
        """)
        connection.execute(insert, {"hash": lane_hash(KEYS[1]), "key": KEYS[1], "data": b'{"number": 2}'})
        resizing = threading.Thread(target=lambda: resized.append(tallies.run("lanes resize --yes")))
        resizing.start()
        waits = """
            SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
            WHERE datname = current_database() AND relation = 'exactly_once_lane'::regclass AND NOT granted
        """
        until(lambda: tallies.sql(waits) == [1], "the command waits for the request")
        later = threading.Thread(target=lambda: tallies.request(3, key=KEYS[2]))
        later.start()
        until(lambda: tallies.sql(waits) == [2], "a later request waits for the command")
    resizing.join(30)
    later.join(30)

    assert resized == [0]
    assert tallies.sql("SELECT array_agg(lane ORDER BY id) FROM exactly_once_outbox") == [
        [lane_hash(k) % 7 for k in KEYS[:3]]
    ]
    tallies.work()
    assert published_by_key(tallies) == {KEYS[0]: [1], KEYS[1]: [2], KEYS[2]: [3]}


def test_resize_refuses_what_must_be_decided_first(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.request(1)
    tallies.work(die="published")
    tallies.forget_group()
    tallies.settings = tallies.settings.model_copy(update={"partitions": 3})

    assert tallies.run("lanes resize --yes") == 1

    assert "decide this first" in capsys.readouterr().err
    assert tallies.sql("SELECT count(*) FROM exactly_once_lane") == [2]
    assert tallies.run("positions adopt --target lanes --yes") == 0
    assert tallies.run("lanes resize --yes") == 0  # the partitions were added already; it goes on from there
    tallies.work()
    assert tallies.numbers() == {1: 1}


def test_a_topic_that_is_published_on_has_got_more_partitions(tallies: Tallies) -> None:
    tallies.request(1)
    tallies.work()
    tallies.grow(tallies.told.topic, 3)

    stop(tallies, LanesDiffer, tallies.told.topic, "had 2 partitions and has 3 now")
    assert tallies.run("lanes resize --yes") == 0

    tallies.request(2)
    tallies.work()
    assert tallies.numbers() == {1: 1, 2: 1}


def test_drain(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    assert tallies.run("lanes drain") == 0
    tallies.request(1)
    tallies.work(die="unpublished")

    assert tallies.run("lanes drain --seconds 0.5") == 1
    told = capsys.readouterr()
    assert "waiting to be published: lane-" in told.out
    assert "events still wait: lane-" in told.err

    drained: list[int] = []
    draining = threading.Thread(target=lambda: drained.append(tallies.run("lanes drain --seconds 30")))
    draining.start()
    tallies.work()
    draining.join(30)
    assert drained == [0]


def test_drain_counts_a_claim_that_is_published_as_published(tallies: Tallies) -> None:
    """Its rows stay in the table until the next claim; `drain` need not wait for that."""
    tallies.request(1)
    tallies.work(die="published")
    assert tallies.waiting() == [1]

    assert tallies.run("lanes drain --seconds 5") == 0
