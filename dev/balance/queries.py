"""The SQL of the balance sheet. A query of `MUST_BE_EMPTY` gives one text for each offender, its id first."""

from typing import NamedTuple

# In byte order, so that the streams of three databases can be merged whatever their collations are.
ORDERS = {
    "order": """
        SELECT orders.id, CASE WHEN reason = 'PAYMENT_TIMED_OUT' THEN 'TIMED OUT' ELSE state END,
               orders.amount, orders.currency, ordered.lines
        FROM orders LEFT JOIN (
            SELECT order_id, jsonb_object_agg(sku, quantity) AS lines
            FROM (SELECT order_id, sku, sum(quantity) AS quantity FROM order_line GROUP BY order_id, sku) AS one
            GROUP BY order_id
        ) AS ordered ON ordered.order_id = orders.id
        ORDER BY orders.id COLLATE "C"
    """,
    "inventory": """
        SELECT order_id, CASE WHEN state = 'RELEASED' AND was_sold THEN 'RETURNED' ELSE state END,
               amount, currency, lines
        FROM reservation ORDER BY order_id COLLATE "C"
    """,
    "payment": """
        SELECT coalesce(payment.order_id, ledger.order_id), coalesce(state, '-'), amount, currency, coalesce(net, 0)
        FROM payment FULL JOIN (
            SELECT order_id, sum(amount) AS net
            FROM entry WHERE side = 'merchant' AND order_id IS NOT NULL GROUP BY order_id
        ) AS ledger ON ledger.order_id = payment.order_id
        ORDER BY coalesce(payment.order_id, ledger.order_id) COLLATE "C"
    """,
}


class MustBeEmpty(NamedTuple):
    """A query that must return no rows."""

    section: str
    what: str
    service: str
    query: str


MUST_BE_EMPTY = (
    MustBeEmpty(
        "Orders",
        "deadlines of orders that are decided",
        "order",
        """
        SELECT format('%s is %s, and %s is scheduled for %s', orders.id, state, name, due)
        FROM orders JOIN exactly_once_schedule ON name = 'payment-overdue:' || orders.id
        WHERE state IN ('CONFIRMED', 'REJECTED', 'CANCELLED')
        """,
    ),
    MustBeEmpty(
        "Stock",
        "items with lost or surplus pieces",
        "inventory",
        """
        SELECT format('%s received %s, available %s, reserved %s, sold %s', sku, received, available, reserved, sold)
        FROM stock WHERE received <> available + reserved + sold OR least(available, reserved, sold) < 0
        """,
    ),
    MustBeEmpty(
        "Stock",
        "items with other reservations than counted",
        "inventory",
        """
        SELECT format('%s reserved %s and sold %s, by its reservations %s and %s', sku,
                      coalesce(stock.reserved, 0), coalesce(stock.sold, 0),
                      coalesce(taken.reserved, 0), coalesce(taken.sold, 0))
        FROM stock FULL JOIN (
            SELECT line.key AS sku,
                   coalesce(sum(line.value::bigint) FILTER (WHERE state = 'RESERVED'), 0) AS reserved,
                   coalesce(sum(line.value::bigint) FILTER (WHERE state = 'SOLD'), 0) AS sold
            FROM reservation CROSS JOIN jsonb_each_text(lines) AS line GROUP BY line.key
        ) AS taken USING (sku)
        WHERE coalesce(stock.reserved, 0) <> coalesce(taken.reserved, 0)
           OR coalesce(stock.sold, 0) <> coalesce(taken.sold, 0)
        """,
    ),
    MustBeEmpty(
        "Money",
        "currencies whose ledger does not sum to zero",
        "payment",
        "SELECT format('%s %s too much', currency, sum(amount)) FROM entry GROUP BY currency HAVING sum(amount) <> 0",
    ),
    MustBeEmpty(
        "Money",
        "postings that do not sum to zero",
        "payment",
        """
        SELECT format('%s %s', posting, string_agg(format('%s %s %s', side, amount, currency), ', '))
        FROM entry GROUP BY posting HAVING sum(amount) <> 0 OR count(DISTINCT currency) > 1
        """,
    ),
    MustBeEmpty(
        "Money",
        "orders captured or refunded twice",
        "payment",
        """
        SELECT format('%s %s', order_id, string_agg(format('%s %s', posting, amount), ', '))
        FROM entry WHERE side = 'merchant' AND order_id IS NOT NULL
        GROUP BY order_id, amount > 0 HAVING count(*) > 1
        """,
    ),
    MustBeEmpty(
        "Money",
        "orders whose money is still held",
        "payment",
        """
        SELECT format('%s %s %s', order_id, sum(amount), currency)
        FROM entry WHERE side = 'held' GROUP BY order_id, currency HAVING sum(amount) <> 0
        """,
    ),
    MustBeEmpty(
        "Money",
        "accounts whose entries sum to something else",
        "payment",
        """
        SELECT format('%s has %s, by its entries %s', coalesce(id, posted.account), coalesce(balance, 0),
                      coalesce(posted.amount, 0))
        FROM account FULL JOIN (
            SELECT account, sum(amount) AS amount FROM entry WHERE account IS NOT NULL GROUP BY account
        ) AS posted ON posted.account = account.id
        WHERE coalesce(balance, 0) <> coalesce(posted.amount, 0)
        """,
    ),
)

# What the events of a type add up to, by the tables.
SUMS = {
    "OrderConfirmed": ("order", "SELECT sum(amount) FROM orders WHERE state = 'CONFIRMED'"),
    "PaymentCaptured": ("payment", "SELECT sum(amount) FROM entry WHERE side = 'merchant' AND amount > 0"),
    "PaymentRefunded": ("payment", "SELECT -sum(amount) FROM entry WHERE side = 'merchant' AND amount < 0"),
}

# What the bank must have booked, by our ledger.
TO_BE_BOOKED = """
    SELECT entry.order_id, CASE WHEN entry.amount > 0 THEN 'capture' ELSE 'refund' END, payment.account,
           abs(entry.amount), entry.currency
    FROM entry LEFT JOIN payment USING (order_id) WHERE side = 'merchant' AND order_id IS NOT NULL
"""

RECEIVED = "SELECT sku, received FROM stock"
DEPOSITED = (
    "SELECT account, sum(amount)::bigint FROM entry WHERE side = 'customer' AND order_id IS NULL GROUP BY account"
)

OPEN_ORDERS = "SELECT count(*) FROM orders WHERE state NOT IN ('CONFIRMED', 'REJECTED', 'CANCELLED')"
CONSUMED = """
    SELECT name FROM exactly_once_topic WHERE NOT starts_with(name, %(own)s) AND name NOT IN (SELECT topic
        FROM exactly_once_claimed)
    UNION SELECT topic FROM exactly_once_position ORDER BY 1
"""
PUBLISHED_TOPICS = "SELECT DISTINCT topic FROM exactly_once_claimed ORDER BY 1"
INBOX = "SELECT source, event_id FROM exactly_once_inbox"
POSITIONS = "SELECT topic, partition, next_offset FROM exactly_once_position"
LANES = """
    SELECT lane.lane, lane.position, coalesce(lane.claim_id::text, ''),
           count(outbox.id), count(outbox.id) FILTER (WHERE outbox.id = ANY(lane.row_ids))
    FROM exactly_once_lane AS lane LEFT JOIN exactly_once_outbox AS outbox ON outbox.lane = lane.lane GROUP BY lane.lane
"""
UNPUBLISHED = """
    SELECT format('%%s %%s %%s, lane %%s, decided %%s', key, event_type, event_id, outbox.lane, decided_at)
    FROM exactly_once_outbox AS outbox JOIN exactly_once_lane AS lane ON lane.lane = outbox.lane
    WHERE outbox.lane <> ALL(%(published)s) OR outbox.id <> ALL(lane.row_ids)
"""
CALLS = """
    SELECT format('%s %s.v%s to %s, asked %s times: %s', key, call_type, call_version, destination, attempts, failure)
    FROM exactly_once_call
"""
OPEN_CALLS = "SELECT count(*) FROM exactly_once_call"
# Those of the malicious producer are where they belong.
DEAD_LETTERS = """
    SELECT format('%s dead letter %s from %s[%s]@%s: %s: %s', coalesce(convert_from(key, 'UTF8'), '-'), id, topic,
                  partition, "offset", error, left(detail, 200))
    FROM exactly_once_dead_letter WHERE redriven_at IS NULL AND NOT headers @> '[["x-stranger"]]'
"""
# The answers to requests whose client never received them.
ANSWERS = (
    "SELECT convert_from(answer, 'UTF8') FROM exactly_once_idempotency_key WHERE key = ANY(%(keys)s) AND status = 201"
)

# Everything that a service has about one order.
DOSSIER = {
    "order": (
        "SELECT * FROM orders WHERE id = %(id)s",
        "SELECT sku, quantity FROM order_line WHERE order_id = %(id)s ORDER BY number",
    ),
    "inventory": ("SELECT * FROM reservation WHERE order_id = %(id)s",),
    "payment": (
        "SELECT * FROM payment WHERE order_id = %(id)s",
        "SELECT posting, side, account, amount, currency, posted_at FROM entry WHERE order_id = %(id)s ORDER BY 6, 1",
        "SELECT call_type, call_id, attempts, maybe_done, failure FROM exactly_once_call WHERE key = %(id)s",
    ),
}
DOSSIER_OUTBOX = (
    "SELECT id, lane, event_type, event_id, decided_at FROM exactly_once_outbox WHERE key = %(id)s ORDER BY id"
)
DOSSIER_INBOX = (
    "SELECT source, event_id, handled_at FROM exactly_once_inbox WHERE event_id = ANY(%(events)s) ORDER BY handled_at"
)
DOSSIER_DEAD_LETTERS = """
    SELECT id, topic, partition, "offset", error, detail, set_aside_at, redriven_at FROM exactly_once_dead_letter
    WHERE key = convert_to(%(id)s, 'UTF8') ORDER BY id
"""
