"""Every kind of damage that the balance sheet must see, planted by hand in a world that balances.

Each returns the offender's id; `DAMAGES` lists the rows in which it must show, and no others.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing

from dev.balance.rules import SERVICES
from tests.dev.world import PRICE, World

GOOD = ("CONFIRMED", "SOLD", "CAPTURED")


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


def deadline_left(world: World) -> str:
    order = world.outcomes[GOOD]
    world.run(
        "order",
        "INSERT INTO exactly_once_schedule"
        " (name, due, lane, hash, topic, key, event_id, event_type, event_version, data)"
        " VALUES ('payment-overdue:' || %s, now() + interval '1 h', 0, 0, 'order.deadlines', 'k', 'x', 'x', 1, '')",
        order,
    )
    return order


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


def still_held(world: World) -> str:
    order = world.outcomes["REJECTED", "RELEASED", "DECLINED"]
    world.post(f"hold:{order}", f"account-{order}", -1, order, other="held")
    return order


def booked_twice(world: World) -> str:
    world.book_at_the_bank("capture", order := world.outcomes[GOOD])
    return order


def not_booked(world: World) -> str:
    order = world.outcomes["CANCELLED", "RETURNED", "REFUNDED"]
    with closing(sqlite3.connect(world.books_file)) as books, books:
        books.execute("""DELETE FROM booking WHERE kind = 'refund' AND "order" = ?""", (order,))
    return order


def booked_by_nobody(world: World) -> str:
    world.book_at_the_bank("refund", order := world.outcomes[GOOD], 1)
    return order


def voided(world: World) -> str:
    world.book_at_the_bank("void", order := world.outcomes[GOOD])
    return order


def call_left(world: World) -> str:
    order = world.outcomes[GOOD]
    world.run(
        "payment",
        "INSERT INTO exactly_once_call (destination, key, call_id, call_type, call_version, data, due_at, give_up_at)"
        " VALUES ('bank', %s, 'x', 'CapturePayment', 1, '', now(), now())",
        order,
    )
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
    world.publish("order.events", order, "OrderConfirmed", amount=PRICE + 1)
    return ""


def captured_otherwise(world: World) -> str:
    order = world.order(*GOOD, without=["PaymentCaptured"])
    world.publish("payment.events", order, "PaymentCaptured", amount=PRICE + 1)
    return ""


def refunded_otherwise(world: World) -> str:
    order = world.order("CANCELLED", "RETURNED", "REFUNDED", without=["PaymentRefunded"])
    world.publish("payment.events", order, "PaymentRefunded", amount=PRICE - 1)
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


def published_again(world: World) -> str:
    order = world.outcomes["CANCELLED", "RELEASED", "REFUNDED"]
    world.publish("payment.events", order, "PaymentRefunded")
    return order


def published_twice(world: World) -> str:
    order = world.outcomes["CANCELLED", "RELEASED", "REFUNDED"]
    world.publish("inventory.events", order, "StockReleased", event_id="another")
    return order


def unexpected(world: World) -> str:
    order = world.outcomes[GOOD]
    world.publish("order.events", order, "OrderCancelled")
    return order


def unknown_to_all(world: World) -> str:
    world.publish("order.events", "order-of-nobody", "OrderPlaced")
    return "order-of-nobody"


def wrong_order(world: World) -> str:
    order = world.order(*GOOD, without=["OrderPlaced"])
    world.publish("order.events", order, "OrderPlaced")
    return order


def split(world: World) -> str:
    order = world.order(*GOOD, without=["OrderPlaced", "OrderConfirmed"])
    world.publish("order.events", order, "OrderPlaced", partition=0)
    world.publish("order.events", order, "OrderConfirmed", partition=1)
    return order


def foreign(world: World) -> str:
    world.publish("order.events", "order-elsewhere", "OrderPlaced", headers={"ce_source": "elsewhere"})
    return "order-elsewhere"


def nameless(world: World) -> str:
    world.publish("payment.events", "order-nameless", "PaymentCaptured", headers={"ce_type": ""})
    return "order-nameless"


def behind(world: World) -> str:
    world.run("payment", "UPDATE exactly_once_position SET next_offset = next_offset - 1 WHERE topic = 'order.events'")
    return "payment"


def beyond(world: World) -> str:
    world.run("order", "UPDATE exactly_once_position SET next_offset = next_offset + 1 WHERE topic = 'payment.events'")
    return "order"


def unpublished(world: World) -> str:
    world.run(
        "inventory",
        "INSERT INTO exactly_once_outbox (lane, topic, key, event_id, event_type, event_version, data)"
        " VALUES (1, 'inventory.events', 'order-unsaid', 'x', 'StockSold', 1, '{}')",
    )
    return "order-unsaid"


def unknown_claim(world: World) -> str:
    world.run("payment", "UPDATE exactly_once_lane SET position = 7, claim_id = gen_random_uuid() WHERE lane = 2")
    return "payment.outbox[2]"


def dead_letter(world: World) -> str:
    order = world.outcomes[GOOD]
    world.run(
        "payment",
        'INSERT INTO exactly_once_dead_letter (topic, partition, "offset", epoch, key, headers, error, detail)'
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
    (deadline_left, ("deadlines of orders that are decided",)),
    (disagreement, ("orders on which the services disagree",)),
    (other_amount, ("orders on which the services disagree",)),
    (other_lines, ("orders on which the services disagree",)),
    (captured_twice, ("orders captured or refunded twice", "orders that paid something else than is due",
                      "money in PaymentCaptured, minor units", "bookings that it lacks",
                      "captures that it has booked")),
    (never_refunded, ("orders that paid something else than is due", "money in PaymentRefunded, minor units",
                      "bookings that we do not know", "refunds that it has booked")),
    (still_held, ("orders whose money is still held",)),
    (booked_twice, ("bookings that it has twice", "captures that it has booked")),
    (not_booked, ("bookings that it lacks", "refunds that it has booked")),
    (booked_by_nobody, ("bookings that we do not know", "refunds that it has booked")),
    (voided, ("bookings that it lacks", "captures that it has booked")),
    (call_left, ("calls that are not finished",)),
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
    (published_again, ("events published twice, as one and the same",)),
    (published_twice, ("events published twice, as two different ones", EVENTS["inventory"])),
    (unexpected, ("events that nobody should have published", EVENTS["order"])),
    (unknown_to_all, ("events that nobody should have published", EVENTS["order"])),
    (wrong_order, ("orders whose events are out of order",)),
    (split, ("orders whose events are out of order",)),
    (foreign, ("records that are no events of their service",)),
    (nameless, ("records that are no events of their service",)),
    (behind, ("records not handled (lag)",)),
    (beyond, ("records not handled (lag)",)),
    (unpublished, ("events not published",)),
    (unknown_claim, ("claims that Kafka does not know",)),
    (dead_letter, ("dead letters",)),
]  # fmt: skip
