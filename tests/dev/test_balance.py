"""The balance sheet balances when all is well, and for each kind of damage fails in the rows that are about it.

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

import psycopg
import pytest
from confluent_kafka import Producer

from dev.balance import Book, balance
from dev.balance.records import Heard, listen
from dev.balance.rules import SERVICES
from dev.balance.topics import Topics
from dev.servers import Servers
from tests.dev.world import PARTITIONS, PRICE, SECONDS, World

ROOT = Path(__file__).parents[2]
GOOD = ("CONFIRMED", "SOLD", "CAPTURED")


@pytest.fixture(scope="module")
def migrated(_breakable_pair: Servers) -> Servers:
    """Servers of our own, since these topics are everybody's; with the three databases that each test clones."""
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
    return _breakable_pair


@pytest.fixture
def world(migrated: Servers) -> Iterator[World]:
    with closing(World(migrated)) as world:
        yield world


# Each damage gives the id that must be named as the offender.


def gone(world: World) -> str:
    world.book.accept("key", "order-gone")
    return "order-gone"


def unasked(world: World) -> str:
    return world.order(*GOOD, book=False)


def two_answers(world: World) -> str:
    world.book.accept("key", order := world.outcomes[GOOD])
    return order


def not_cancelled(world: World) -> str:
    world.book.cancelled.add(order := world.outcomes[GOOD])
    return order


def no_end(world: World) -> str:
    return world.order("PLACED", "-", "-")


def disagreement(world: World) -> str:
    order = world.outcomes["CANCELLED", "REJECTED", "CANCELLED"]
    world.run("payment", "DELETE FROM payment WHERE order_id = %s", order)
    return order


def other_amount(world: World) -> str:
    order = world.outcomes["REJECTED", "RELEASED", "DECLINED"]
    world.run("inventory", "UPDATE reservation SET amount = amount + 1 WHERE order_id = %s", order)
    return order


def other_lines(world: World) -> str:
    order = world.outcomes[GOOD]
    world.run("order", "UPDATE order_line SET quantity = 2 WHERE order_id = %s", order)
    return order


def captured_twice(world: World) -> str:
    order = world.outcomes[GOOD]
    world.post(f"again:{order}", f"account-{order}", -PRICE, order)
    return order


def never_refunded(world: World) -> str:
    order = world.outcomes["CANCELLED", "RETURNED", "REFUNDED"]
    world.run("payment", "ALTER TABLE entry DISABLE TRIGGER USER")  # the ledger refuses to forget
    world.run("payment", "DELETE FROM entry WHERE posting = %s", f"refund:{order}")
    world.run("payment", "UPDATE account SET balance = balance - %s WHERE id = %s", PRICE, f"account-{order}")
    return order


def one_sided(world: World) -> str:
    world.entry("deposit:one-sided", "cash", -1)
    return "EUR"


def mixed_up(world: World) -> str:
    world.entry("deposit:a", "cash", -1)
    world.entry("deposit:b", "cash", 1)
    return "deposit:a"


def other_balance(world: World) -> str:
    account = f"account-{world.outcomes[GOOD]}"
    world.run("payment", "UPDATE account SET balance = balance + 1 WHERE id = %s", account)
    return account


def other_deposit(world: World) -> str:
    account = f"account-{world.outcomes[GOOD]}"
    world.post("deposit:once-more", account, 1, other="cash")
    return account


def confirmed_otherwise(world: World) -> str:
    order = world.order(*GOOD, without=["OrderConfirmed"])
    world.say("order.events", order, "OrderConfirmed", amount=PRICE + 1)
    return ""


def captured_otherwise(world: World) -> str:
    order = world.order(*GOOD, without=["PaymentCaptured"])
    world.say("payment.events", order, "PaymentCaptured", amount=PRICE + 1)
    return ""


def refunded_otherwise(world: World) -> str:
    order = world.order("CANCELLED", "RETURNED", "REFUNDED", without=["PaymentRefunded"])
    world.say("payment.events", order, "PaymentRefunded", amount=PRICE - 1)
    return ""


def lost_piece(world: World) -> str:
    sku = f"item-{world.outcomes[GOOD]}"
    world.run("inventory", "ALTER TABLE stock DROP CONSTRAINT stock_sum")
    world.run("inventory", "UPDATE stock SET available = available - 1 WHERE sku = %s", sku)
    return sku


def unsold_piece(world: World) -> str:
    sku = f"item-{world.outcomes[GOOD]}"
    world.run("inventory", "UPDATE stock SET available = available + 1, sold = sold - 1 WHERE sku = %s", sku)
    return sku


def other_receipt(world: World) -> str:
    sku = f"item-{world.outcomes[GOOD]}"
    world.run("inventory", "UPDATE stock SET available = available + 1, received = received + 1 WHERE sku = %s", sku)
    return sku


def missing(world: World) -> str:
    return world.order(*GOOD, without=["StockSold"])


def said_again(world: World) -> str:
    order = world.outcomes["CANCELLED", "RELEASED", "REFUNDED"]
    world.say("payment.events", order, "PaymentRefunded")
    return order


def said_twice(world: World) -> str:
    order = world.outcomes["CANCELLED", "RELEASED", "REFUNDED"]
    world.say("inventory.events", order, "StockReleased", event_id="another")
    return order


def unexpected(world: World) -> str:
    order = world.outcomes[GOOD]
    world.say("order.events", order, "OrderCancelled")
    return order


def unheard_of(world: World) -> str:
    world.say("order.events", "order-of-nobody", "OrderPlaced")
    return "order-of-nobody"


def wrong_order(world: World) -> str:
    order = world.order(*GOOD, without=["OrderPlaced"])
    world.say("order.events", order, "OrderPlaced")
    return order


def split(world: World) -> str:
    order = world.order(*GOOD, without=["OrderPlaced", "OrderConfirmed"])
    world.say("order.events", order, "OrderPlaced", partition=0)
    world.say("order.events", order, "OrderConfirmed", partition=1)
    return order


def foreign(world: World) -> str:
    world.say("order.events", "order-elsewhere", "OrderPlaced", headers={"ce_source": "elsewhere"})
    return "order-elsewhere"


def nameless(world: World) -> str:
    world.say("payment.events", "order-nameless", "PaymentCaptured", headers={"ce_type": ""})
    return "order-nameless"


def behind(world: World) -> str:
    world.run("payment", "UPDATE position SET next_offset = next_offset - 1 WHERE topic = 'order.events'")
    return "payment"


def beyond(world: World) -> str:
    world.run("order", "UPDATE position SET next_offset = next_offset + 1 WHERE topic = 'payment.events'")
    return "order"


def unsaid(world: World) -> str:
    world.run(
        "inventory",
        "INSERT INTO outbox (lane, topic, key, event_id, event_type, event_version, data)"
        " VALUES (1, 'inventory.events', 'order-unsaid', 'x', 'StockSold', 1, '{}')",
    )
    return "order-unsaid"


def unknown_claim(world: World) -> str:
    world.run("payment", "UPDATE lane SET position = 7, claim_id = gen_random_uuid() WHERE lane = 2")
    return "payment.outbox[2]"


def dead_letter(world: World) -> str:
    order = world.outcomes[GOOD]
    world.run(
        "payment",
        'INSERT INTO dead_letter (topic, partition, "offset", epoch, key, headers, error, detail)'
        " VALUES ('order.events', 0, 5, 0, convert_to(%s, 'UTF8'), '[]', 'Reject', 'poison')",
        order,
    )
    return order


EVENTS = {topic: f"events on {topic}.events" for topic in SERVICES}

# By damage, the rows that must fail; the offender must be named in the first of them.
DAMAGES: list[tuple[Callable[[World], str], tuple[str, ...]]] = [
    (gone, ("orders accepted over HTTP that are gone", "orders placed")),
    (unasked, ("orders that nobody placed", "orders placed", "items that received something else",
               "accounts that received something else")),
    (two_answers, ("requests sent twice that had two answers",)),
    (not_cancelled, ("cancellations accepted and not done",)),
    (no_end, ("orders without an end",)),
    (disagreement, ("orders on which the services disagree",)),
    (other_amount, ("orders on which the services disagree",)),
    (other_lines, ("orders on which the services disagree",)),
    (captured_twice, ("orders captured or refunded twice", "orders that paid something else than is due",
                      "money in PaymentCaptured, minor units")),
    (never_refunded, ("orders that paid something else than is due", "money in PaymentRefunded, minor units")),
    (one_sided, ("currencies whose ledger does not sum to zero", "postings that do not sum to zero")),
    (mixed_up, ("postings that do not sum to zero",)),
    (other_balance, ("accounts whose entries sum to something else",)),
    (other_deposit, ("accounts that received something else",)),
    (confirmed_otherwise, ("money in OrderConfirmed, minor units",)),
    (captured_otherwise, ("money in PaymentCaptured, minor units",)),
    (refunded_otherwise, ("money in PaymentRefunded, minor units",)),
    (lost_piece, ("items with lost or surplus pieces",)),
    (unsold_piece, ("items with other reservations than counted",)),
    (other_receipt, ("items that received something else",)),
    (missing, ("events that are missing", EVENTS["inventory"])),
    (said_again, ("events said twice, as one and the same",)),
    (said_twice, ("events said twice, as two different ones", EVENTS["inventory"])),
    (unexpected, ("events that nobody should have said", EVENTS["order"])),
    (unheard_of, ("events that nobody should have said", EVENTS["order"])),
    (wrong_order, ("orders whose events are out of order",)),
    (split, ("orders whose events are out of order",)),
    (foreign, ("records that are no events of their service",)),
    (nameless, ("records that are no events of their service",)),
    (behind, ("records not handled (lag)",)),
    (beyond, ("records not handled (lag)",)),
    (unsaid, ("events not said",)),
    (unknown_claim, ("claims that Kafka does not know",)),
    (dead_letter, ("dead letters",)),
]  # fmt: skip

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
    world.say("payment.events", order, "PaymentCaptured")
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
    world.say("payment.events", world.outcomes[GOOD], "PaymentCaptured", event_id="another")
    world.producer.flush(SECONDS)
    world.producer.abort_transaction(SECONDS)
    world.producer = committed
    world.rest()
    sheet = world.sheet()
    assert sheet.balanced, sheet.text()


def test_a_record_that_comes_while_the_sheet_is_made_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def listening(topics: Topics, topic: str) -> Heard:
        heard = listen(topics, topic)
        world.say(topic, world.outcomes[GOOD], "OrderPlaced", event_id=f"late-{topic}")
        world.producer.flush(SECONDS)
        return heard

    monkeypatch.setattr(balance, "listen", listening)
    sheet = world.sheet()
    assert sheet.failed == ("partitions that grew while this was made",), sheet.text()


def test_it_waits_until_all_is_drained(world: World) -> None:
    order = world.order("PLACED", "-", "-")
    world.rest()

    def reject() -> None:
        world.run("order", "UPDATE orders SET state = 'REJECTED', reason = 'OUT_OF_STOCK' WHERE id = %s", order)

    world.say("order.events", order, "OrderRejected")
    world.say("inventory.events", order, "StockRejected")
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


def test_a_client_that_never_heard_its_answer_is_no_damage(world: World) -> None:
    order = world.order(*GOOD, book=False)
    world.book.received[f"item-{order}"] += 10
    world.book.deposited[f"account-{order}"] += 10 * PRICE
    world.book.unknown |= {"key-unheard", "key-never-arrived"}
    world.run(
        "order",
        "INSERT INTO idempotency_key (scope, key, body_hash, status, answer)"
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
            *("--settle-seconds", "0", "--drain-seconds", "0"),
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
