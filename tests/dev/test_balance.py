"""The balance sheet balances when all is well; each kind of damage fails the rows about it.

Method: a world made by hand (see `world`), one damage at a time, and the exact set of rows that must fail.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import MagicMock, Mock

import psycopg
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from dev.balance import Book, balance
from dev.balance.databases import Databases
from dev.balance.records import Consumed, listen
from dev.balance.rules import SERVICES
from dev.balance.topics import STRANGER, Topics
from dev.servers import Servers
from shared.testing import until
from tests.dev import world as world_module
from tests.dev.damages import DAMAGES, EVENTS, GOOD, behind, beyond, gone
from tests.dev.world import PARTITIONS, PRICE, SECONDS, World

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def migrated(_breakable_pair: Servers) -> Servers:
    """Servers of their own, since all services share these topics, with the three databases that each test clones."""
    for service in SERVICES:
        try:
            _breakable_pair.postgres.create_database(service)
        except psycopg.errors.DuplicateDatabase:
            continue
        subprocess.run(
            [sys.executable, "-m", f"services.{service}", "migrate"],
            cwd=ROOT,
            env={
                **os.environ,
                "KAFKA_BOOTSTRAP_SERVERS": _breakable_pair.kafka.bootstrap,
                "DATABASE_URL": _breakable_pair.postgres.dsn(service),
                "PARTITIONS": str(PARTITIONS),
            },
            check=True,
        )
    # A new broker makes the topic of the committed offsets only when the first group asks; until its partitions have a
    # leader the answer is NOT_COORDINATOR, which this call of the client hands on.
    admin = AdminClient({"bootstrap.servers": _breakable_pair.kafka.bootstrap})
    admin.create_topics([NewTopic("warm-up", 1, 1)])["warm-up"].result(SECONDS)
    with closing(Consumer({"bootstrap.servers": _breakable_pair.kafka.bootstrap, "group.id": "warm-up"})) as reader:
        until(lambda: knows_offsets(reader), "the group coordinator answers")
    return _breakable_pair


def knows_offsets(reader: Consumer) -> bool:
    try:
        reader.committed([TopicPartition("warm-up", 0)], SECONDS)
    except KafkaException:
        return False
    return True


@pytest.fixture
def world(migrated: Servers) -> Iterator[World]:
    with closing(World(migrated)) as world:
        yield world


def test_a_world_that_cannot_be_made_leaves_no_connection_open(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[MagicMock] = []

    def connect(*_: object, **__: object) -> MagicMock:
        connection = MagicMock()
        connection.close.return_value = None
        connection.__exit__.side_effect = lambda *_: connection.close()
        connection.__enter__.return_value = connection
        made.append(connection)
        return connection

    monkeypatch.setattr(psycopg, "connect", connect)
    monkeypatch.setattr(world_module, "Topics", Mock(side_effect=RuntimeError("Kafka is away")))

    with pytest.raises(RuntimeError, match="Kafka is away"):
        World(MagicMock())

    assert [one.close.call_count for one in made] == [1] * (1 + len(SERVICES))


# Planted in tests of their own: they need something that goes on while the sheet is made.
PLANTED_BELOW = {
    EVENTS["payment"],
    "partitions with an open transaction",
    "partitions that grew while this was made",
}


def test_a_world_in_which_nothing_is_wrong_balances(world: World) -> None:
    sheet = world.sheet()
    assert sheet.balanced, sheet.text()
    assert "It balances." in sheet.text()
    assert not sheet.dossiers


@pytest.mark.parametrize(("damage", "rows"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_damage_is_seen_in_the_rows_that_are_about_it(
    world: World, damage: Callable[[World], str], rows: tuple[str, ...]
) -> None:
    offender = damage(world)
    if damage not in (behind, beyond):
        world.rest()
    sheet = world.sheet()
    assert set(sheet.failed) == set(rows), sheet.text()
    (first,) = (row for row in sheet.rows if row.what == rows[0])
    if offender:
        named = first.offenders[0].split()[0] if first.offenders else ""
        assert offender == named, sheet.text()
    if first.of_orders:
        assert any(dossier.startswith(f"{offender}:") for dossier in sheet.dossiers), sheet.text()


def test_every_row_is_seen_failing(world: World) -> None:
    rows = {row.what for row in world.sheet().rows}
    assert rows == {row for _, failing in DAMAGES for row in failing} | PLANTED_BELOW


def test_a_record_in_an_open_transaction_is_not_there_and_the_transaction_is_seen(world: World) -> None:
    order = world.order(*GOOD, without=["PaymentCaptured"])
    world.rest()
    committed, world.producer = world.producer, _transactional(world)
    world.producer.begin_transaction()
    world.publish("payment.events", order, "PaymentCaptured")
    world.producer.flush(SECONDS)
    sheet = world.sheet()
    world.producer.commit_transaction(SECONDS)
    world.producer = committed
    assert set(sheet.failed) == {
        "partitions with an open transaction",
        "events that are missing",
        "money in PaymentCaptured, minor units",
        EVENTS["payment"],
    }, sheet.text()
    world.rest()
    sheet = world.sheet()
    assert sheet.balanced, f"the control marker counts as a record, or as lag:\n{sheet.text()}"


def test_an_aborted_record_does_not_exist(world: World) -> None:
    committed, world.producer = world.producer, _transactional(world)
    world.producer.begin_transaction()
    world.publish("payment.events", world.outcomes[GOOD], "PaymentCaptured", event_id="another")
    world.producer.flush(SECONDS)
    world.producer.abort_transaction(SECONDS)
    world.producer = committed
    world.rest()
    sheet = world.sheet()
    assert sheet.balanced, sheet.text()


def test_a_record_that_comes_while_the_sheet_is_made_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def listening(topics: Topics, topic: str) -> Consumed:
        consumed = listen(topics, topic)
        world.publish(topic, world.outcomes[GOOD], "OrderPlaced", event_id=f"late-{topic}")
        world.producer.flush(SECONDS)
        return consumed

    monkeypatch.setattr(balance, "listen", listening)
    sheet = world.sheet()
    assert sheet.failed == ("partitions that grew while this was made",), sheet.text()


def test_it_waits_until_all_is_drained(world: World) -> None:
    order = world.order("PLACED", "-", "-")
    world.rest()

    def reject() -> None:
        world.run("order", "UPDATE orders SET state = 'REJECTED', reason = 'OUT_OF_STOCK' WHERE id = %s", order)

    world.publish("order.events", order, "OrderRejected")
    world.publish("inventory.events", order, "StockRejected")
    world.rest()
    world.run(
        "inventory",
        "INSERT INTO reservation (order_id, state, lines, reason, was_sold)"
        """ VALUES (%s, 'REJECTED', '{}', 'OUT_OF_STOCK', false)""",
        order,
    )
    timer = threading.Timer(0.5, reject)
    timer.start()
    sheet = world.balance(drain_seconds=SECONDS).sheet(world.book)
    timer.join()
    assert sheet.balanced, sheet.text()
    assert sheet.drained_seconds >= 0.4


def test_it_is_made_and_fails_also_if_nothing_ever_drains(world: World) -> None:
    order = world.order("PLACED", "-", "-")
    world.rest()
    sheet = world.balance(drain_seconds=0.5).sheet(world.book)
    assert sheet.failed == ("orders without an end",), sheet.text()
    assert order in sheet.text()


def test_a_client_that_never_received_its_answer_is_no_damage(world: World) -> None:
    order = world.order(*GOOD, book=False)
    world.book.received[f"item-{order}"] += 10
    world.book.deposited[f"account-{order}"] += 10 * PRICE
    world.book.unknown |= {"key-unheard", "key-never-arrived"}
    world.run(
        "order",
        "INSERT INTO exactly_once_idempotency_key (scope, key, body_hash, status, answer)"
        " VALUES ('POST /orders', 'key-unheard', '', 201, convert_to(%s, 'UTF8'))",
        json.dumps({"id": order}),
    )
    world.rest()
    sheet = world.sheet()
    assert sheet.balanced, sheet.text()


def test_a_book_survives_being_written_and_read(world: World, tmp_path: Path) -> None:
    world.book.unknown.add("key-unknown")
    world.book.contradictions.append("order-1 two answers")
    world.book.write(tmp_path / "book.jsonl")
    assert Book.read(tmp_path / "book.jsonl") == world.book


@pytest.mark.parametrize("damaged", [False, True])
def test_the_command_tells_machines_too(world: World, tmp_path: Path, migrated: Servers, damaged: bool) -> None:
    if damaged:
        gone(world)
    world.book.write(tmp_path / "book.jsonl")
    url = world.dsns["order"].replace("/order_world", "/{service}_world")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "dev.balance", "--json", "--book", str(tmp_path / "book.jsonl")),
            *("--settle-seconds", "0", "--drain-seconds", "0", "--services", *SERVICES),
        ],
        cwd=ROOT,
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": migrated.kafka.bootstrap, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout)
    assert (done.returncode, told["balanced"]) == ((1, False) if damaged else (0, True)), done.stderr
    assert [row["what"] for row in told["rows"] if not row["ok"]] == (
        ["orders placed", "orders accepted over HTTP that are gone"] if damaged else []
    )


@pytest.fixture
def fourth(world: World) -> World:
    """A service without rules in the sheet consumes one type of the inventory and publishes one of its own."""
    world.join("shipping", "inventory.events", "payment")
    for order in world.outcomes.values():
        world.copied(order)
    world.rest()
    return world


def test_a_service_without_rules_balances_too(fourth: World) -> None:
    sheet = fourth.sheet()
    assert sheet.balanced, sheet.text()
    (row,) = (row for row in sheet.rows if row.what == "events that shipping has handled")
    assert row.found > 0


def test_a_topic_of_another_name_is_known_as_one_that_is_published(fourth: World) -> None:
    """The service's own record of what it published tells; otherwise its events would count as not handled."""
    topic = "acme.prod.parcels"
    fourth.run("shipping", "INSERT INTO exactly_once_topic VALUES (%s, %s, %s)", topic, topic, PARTITIONS)
    fourth.run(
        "shipping",
        "INSERT INTO exactly_once_claimed (lane, position, topic, events, event_ids) "
        "VALUES (0, 1, %s, 1, ARRAY['e-1'])",
        topic,
    )
    with Databases(fourth.dsns) as databases:
        assert databases.consumed("shipping") == ("inventory.events",)
        assert topic in databases.published_topics("shipping")

    fourth._empty_topics(topic)
    for _ in range(2):
        fourth.publish(topic, "p-1", "ParcelSent", event_id="e-1", headers={"ce_source": "shipping"})
    fourth.rest()
    (row,) = (row for row in fourth.sheet().rows if row.what == "events of other services published twice")
    assert row.found == 1, "what is published there is read"


def scatter(world: World, order: str) -> None:
    for number in range(PARTITIONS):
        world.publish("shipping.events", order, "More", event_id=f"more-{number}", partition=number)


def invent(world: World, order: str) -> None:
    world.run("shipping", "INSERT INTO exactly_once_inbox (source, event_id) VALUES ('inventory', %s)", order)


OTHERS: dict[str, tuple[Callable[[World, str], None], set[str]]] = {
    "an event was never handled": (
        lambda world, order: world.run(
            "shipping", "DELETE FROM exactly_once_inbox WHERE event_id LIKE %s", f"%{order}%"
        ),
        {"events that shipping has handled", "events that were handled by no other service"},
    ),
    "an event was handled that nobody published": (
        lambda world, order: world.run(
            "shipping", "INSERT INTO exactly_once_inbox (source, event_id) VALUES ('inventory', %s)", order
        ),
        {"events that shipping has handled", "events that were handled and cannot be read"},
    ),
    "an event was published twice": (
        lambda world, order: world.publish("shipping.events", order, "ShippingNoted"),
        {"events of other services published twice"},
    ),
    "somebody else publishes on its topic": (
        lambda world, order: world.publish("shipping.events", order, "Odd", headers={"ce_source": "order"}),
        {"records that are no events of the other service"},
    ),
    "a key is in two partitions": (
        scatter,
        {"keys of other services in several partitions"},
    ),
    "a record was set aside": (
        lambda world, order: world.run(
            "shipping",
            """INSERT INTO exactly_once_dead_letter (topic, partition, "offset", epoch, key, headers, error, detail)"""
            " VALUES ('inventory.events', 0, 0, 0, convert_to(%s, 'UTF8'), '[]', 'Reject', '')",
            order,
        ),
        {"dead letters"},
    ),
    "an event waits in the outbox": (
        lambda world, order: world.run(
            "shipping",
            "INSERT INTO exactly_once_outbox (lane, topic, key, event_id, event_type, event_version, data)"
            " VALUES (0, 'shipping.events', %s, 'waits', 'ShippingNoted', 1, '')",
            order,
        ),
        {"events not published"},
    ),
    "a record was not read": (
        lambda world, order: world.run(
            "shipping", "UPDATE exactly_once_position SET next_offset = 0 WHERE next_offset > 0"
        ),
        {"records not handled (lag)"},
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_damage_of_a_service_without_rules_is_seen(fourth: World, name: str) -> None:
    damage, rows = OTHERS[name]
    damage(fourth, fourth.outcomes[GOOD])
    assert fourth.producer.flush(SECONDS) == 0
    sheet = fourth.sheet()
    assert set(sheet.failed) == rows, sheet.text()


def test_a_malicious_producer_is_told_apart_by_its_mark(world: World) -> None:
    """Its records and their fate do not count for the services; how many can be read is counted."""
    order = world.outcomes[GOOD]
    world.publish("order.events", order, "OrderPlaced", headers={STRANGER: "1"})
    world.producer.produce("payment.events", b"\xff", b"\xff", headers={STRANGER: "1"})
    world.run(
        "payment",
        """INSERT INTO exactly_once_dead_letter (topic, partition, "offset", epoch, key, headers, error, detail)"""
        """ VALUES ('order.events', 0, 5, 0, '\\xff', '[["a", null], ["x-stranger", "MQ=="]]', 'Malformed', '')""",
    )
    world.rest()
    world.book.strangers = 3

    sheet = world.sheet()

    assert sheet.failed == ("records of the malicious producer",), sheet.text()
    (row,) = [row for row in sheet.rows if not row.ok]
    assert (row.found, row.expected) == (2, 3)


def _transactional(world: World) -> Producer:
    producer = Producer(
        {
            "bootstrap.servers": world.balance().bootstrap,
            "transactional.id": "balance-test",
            "transaction.timeout.ms": 60_000,
            "log_level": 0,
        }
    )
    producer.init_transactions(SECONDS)
    return producer
