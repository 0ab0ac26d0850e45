"""Makes the balance sheet of a running system: waits until it is at rest, then compares tables and topics."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dev.balance import bank, others
from dev.balance.book import Book
from dev.balance.databases import Databases
from dev.balance.dossier import dossiers
from dev.balance.drain import Pending, look, wait
from dev.balance.outside import Outside
from dev.balance.queries import CALLS, DEAD_LETTERS, MUST_BE_EMPTY, SUMS, UNPUBLISHED
from dev.balance.records import check, listen
from dev.balance.rules import FINAL, TOPICS, Deviations, disagreement, unpaid
from dev.balance.sheet import OFFENDERS_SHOWN, Offenders, Row, Sheet, none
from dev.balance.topics import Topics

# Longer than a frozen worker's transaction lives (12 s), and time to work off what waited for it.
DRAIN_SECONDS = 120.0
# What comes late comes after all seems done: several cycles of every worker, and of the broker's clean-up (1 s).
SETTLE_SECONDS = 3.0


def _silent(_: str) -> None: ...


@dataclass(frozen=True)
class Balance:
    """Where to look, and for how long."""

    bootstrap: str
    dsns: Mapping[str, str]
    """The libpq URL of the database of each service."""
    drain_seconds: float = DRAIN_SECONDS
    settle_seconds: float = SETTLE_SECONDS
    bank: str | None = None
    """The base URL of the bank; without it, nothing is compared with its books."""
    report: Callable[[str], None] = field(default=_silent)
    """Called with what is being waited for."""

    def sheet(self, book: Book | None = None) -> Sheet:
        """Wait until everything is drained, wait once more, and make the sheet - also if it was not drained in time."""
        topics = Topics(self.bootstrap)
        began = time.monotonic()
        if self.drain(topics):
            drained_seconds = time.monotonic() - began
            self.report("all is drained; waiting for what might still come")
            time.sleep(self.settle_seconds)
            self.drain(topics)
        else:
            drained_seconds = time.monotonic() - began
        self.report("comparing")
        with Databases(self.dsns) as databases:
            sheet = _Making(databases, topics, book, self.bank).sheet()
        sheet.drained_seconds = drained_seconds
        return sheet

    def drain(self, topics: Topics | None = None) -> bool:
        """Wait until every order is final, every record handled and every event published; False if that takes too
        long.
        """
        reader = topics or Topics(self.bootstrap)

        def now() -> Pending:
            with Databases(self.dsns) as databases:
                return look(databases, reader)

        return wait(now, self.drain_seconds, self.report)


class _Making:
    """One sheet, section by section."""

    def __init__(self, databases: Databases, topics: Topics, book: Book | None, bank: str | None) -> None:
        self._databases = databases
        self._topics = topics
        self._book = book
        self._bank = bank
        self._sheet = Sheet()

    def sheet(self) -> Sheet:
        # Kafka first, the snapshots after it: a record handled between the two is seen as pending, never overlooked.
        pending = look(self._databases, self._topics)
        outside = None if self._book is None else Outside(self._book, self._databases)
        self._orders(outside)
        for query in MUST_BE_EMPTY:
            self._sheet.add(query.section, none(query.what, self._databases.offenders(query.service, query.query)))
        if outside is not None:
            self._sheet.add("Stock", outside.goods())
            self._sheet.add("Money", outside.money())
        self._published()
        if self._bank is not None:
            self._sheet.add("The bank", *bank.rows(bank.bookings(self._bank), self._databases))
        self._sheet.add("Other services", *others.rows(self._databases, self._topics))
        self._rest(pending)
        offenders = (offender for row in self._sheet.rows if row.of_orders and not row.ok for offender in row.offenders)
        orders = list(dict.fromkeys(offender.split()[0] for offender in offenders))
        self._sheet.dossiers = dossiers(orders[:OFFENDERS_SHOWN], self._databases, self._topics, self._book)
        return self._sheet

    def _orders(self, outside: Outside | None) -> None:
        count, open_, wrong, owed = 0, Offenders(), Offenders(), Offenders()
        for order in self._databases.orders():
            count += 1
            if outside is not None:
                outside.note(order)
            if order.order in FINAL:
                if (why := disagreement(order)) is not None:
                    wrong.add(f"{order.id} {why}")
            else:
                open_.add(f"{order.id} order {order.order}, reservation {order.reservation}, payment {order.payment}")
            if (why := unpaid(order)) is not None:
                owed.add(f"{order.id} {why}")
        self._sheet.add("Orders", *(Row("orders", count, count) for _ in range(outside is None)))
        self._sheet.add("Orders", *(outside.rows() if outside is not None else ()))
        self._sheet.add("Orders", none("orders without an end", open_, of_orders=True))
        self._sheet.add("Orders", none("orders on which the services disagree", wrong, of_orders=True))
        self._sheet.add("Money", none("orders that paid something else than is due", owed, of_orders=True))

    def _published(self) -> None:
        """Compare the topics with the tables: what each service has published with what it must have published."""
        repeated, foreign, late = Offenders(), Offenders(), Deviations()
        sums: Counter[str] = Counter()
        for topic in TOPICS:
            consumed = listen(self._topics, topic)
            expected = check(consumed, self._databases.orders(), late)
            self._sheet.add("Events", Row(f"events on {topic}", consumed.events, expected))
            repeated.extend(consumed.repeated)
            foreign.extend(consumed.foreign)
            sums += consumed.amounts
        self._sheet.add(
            "Events",
            none("events that are missing", late.missing, of_orders=True),
            none("events published twice, as one and the same", repeated, of_orders=True),
            none("events published twice, as two different ones", late.twice, of_orders=True),
            none("events that nobody should have published", late.unexpected, of_orders=True),
            none("orders whose events are out of order", late.out_of_order, of_orders=True),
            none("records that are no events of their service", foreign, of_orders=True),
        )
        if self._book is not None and self._book.strangers:
            read = self._topics.strangers
            self._sheet.add("Events", Row("records of the malicious producer", read, self._book.strangers))
        for event_type, (service, query) in SUMS.items():
            total = self._databases.number(service, query)
            self._sheet.add("Money", Row(f"money in {event_type}, minor units", sums[event_type], total))

    def _rest(self, pending: Pending) -> None:
        """Count what is not at rest."""
        lags, unpublished, claims, dead_letters = Offenders(), Offenders(), Offenders(), Offenders()
        calls = Offenders()
        for (service, (topic, partition)), lag in pending.lags.items():
            lags.add(f"{service} at {topic}[{partition}]: {lag}")
        for service in self._databases.services:
            own = [lane for lane in pending.lanes if lane.service == service]
            published = [lane.number for lane in own if lane.published]
            unpublished.extend(self._databases.offenders(service, UNPUBLISHED, published=published))
            dead_letters.extend(self._databases.offenders(service, DEAD_LETTERS))
            calls.extend(self._databases.offenders(service, CALLS))
            for lane in own:
                if not lane.published:
                    claims.add(str(lane))
        open_, late = Offenders(), Offenders()
        for topic, partition in pending.open_transactions:
            open_.add(f"{topic}[{partition}] {pending.ends[topic, partition]}")
        for place, end in self._topics.ends(pending.ends).items():
            if place[0].endswith(".events") and end != pending.ends[place]:
                late.add(f"{place[0]}[{place[1]}] ended at {pending.ends[place].high}, now at {end.high}")
        self._sheet.add(
            "At rest",
            Row("records not handled (lag)", pending.lag, 0, lags.first),
            none("events not published", unpublished, of_orders=True),
            none("claims that Kafka does not know", claims),
            none("calls that are not finished", calls, of_orders=True),
            none("partitions with an open transaction", open_),
            none("dead letters", dead_letters, of_orders=True),
            none("partitions that grew while this was made", late),
        )
