"""The most orders that are borne, what twice as many do to the system, and the most of a peer on the same servers."""

import time
from collections.abc import Iterator

from dev.bench.customers import Customers
from dev.bench.inventory import BenchError
from dev.bench.meter import Meter, Spent
from dev.bench.peer_system import peer
from dev.bench.report import Figure
from dev.bench.run import BEARABLE_SECONDS, Run
from dev.bench.search import most
from dev.bench.shop import shop
from dev.servers import Echo, Servers
from dev.system import System

SECTION = "capacity"
FIRST_RATE = 50
RUN_SECONDS = 12.0
"""A run that exceeds the most by a tenth has waited for a second by then, and the half that is compared is longer than
any single stall."""
WARM_RATE, WARM_SECONDS = 30, 8.0
"""Half of what the slower one bears: connections, caches and the JVM's compiler."""
OVERLOAD = 2
TOO_MANY = (429, 503)


def measure(servers: Servers, report: Echo, *, seconds: float) -> Iterator[Figure]:
    """Find the most of both; run twice our most for `seconds`."""
    report("capacity: starting the whole system ...")
    with shop(servers) as (system, customers, meter):
        ours, run, spent = _most(customers, meter, report, "ours")
        what = f"most orders/s that are borne with p99 <= {BEARABLE_SECONDS:.0f} s"
        yield Figure(SECTION, what, ours, "orders/s", at_least=400)
        yield Figure(SECTION, "at the most: POST to OrderConfirmed, p50", 1_000 * run.percentile(50), "ms")
        yield Figure(SECTION, "at the most: POST to OrderConfirmed, p99", 1_000 * run.percentile(99), "ms")
        yield from spent.figures(SECTION, "at the most", len(run.due), at_most=4.5)
        yield from _overload(system, customers, report, ours, seconds)
        databases = system.services
    report("capacity: starting the peer ...")
    with peer(servers, instead_of=databases) as (customers, meter):
        theirs, run, spent = _most(customers, meter, report, "the peer")
    yield Figure(SECTION, "the peer: most orders/s, borne in the same way", theirs, "orders/s")
    yield Figure(SECTION, "the peer at its most: POST to OrderConfirmed, p99", 1_000 * run.percentile(99), "ms")
    yield from spent.figures(SECTION, "the peer at its most", len(run.due))
    yield Figure(SECTION, "our most / the peer's", ours / theirs, "times", at_least=3)


def _most(customers: Customers, meter: Meter, report: Echo, whose: str) -> tuple[int, Run, Spent]:
    """Return the most that is borne, the run that showed it, and what it cost."""
    shown: dict[int, tuple[Run, Spent]] = {}
    customers.order(WARM_RATE, WARM_SECONDS)

    def bears(rate: int) -> bool:
        meter.start()
        run = customers.order(rate, RUN_SECONDS, patient=False, hopeless=True)
        shown[rate] = run, meter.stop()
        report(f"capacity: {whose}: {rate} orders/s are {'borne' if run.borne else 'too many'}: {run}")
        return run.borne

    if not (found := most(bears, FIRST_RATE)):
        raise BenchError(f"{whose}: not even one order per second is borne")
    return found, *shown[found]


def _overload(system: System, customers: Customers, report: Echo, ours: int, seconds: float) -> Iterator[Figure]:
    """Place twice as many orders as are borne; then wait until all is at rest, and make the balance sheet."""
    rate = OVERLOAD * ours
    report(f"capacity: {rate} orders per second for {seconds:.0f} s ...")
    run = customers.order(rate, seconds, patient=False)
    report(f"capacity: {rate} orders/s: {run}")
    waited = time.monotonic() - (run.begin + seconds)
    report("capacity: making the balance sheet ...")
    sheet = system.balance().sheet(customers.book)
    if not sheet.balanced:
        report(sheet.text())
    at = f"{OVERLOAD} times the most for {seconds:.0f} s"
    yield Figure(SECTION, f"{at}: orders confirmed meanwhile", run.throughput, "orders/s")
    yield Figure(SECTION, f"{at}: orders confirmed meanwhile / the most", run.throughput / ours, "times", at_least=0.9)
    refused = sum(run.refused[status] for status in TOO_MANY)
    yield Figure(SECTION, f"{at}: orders answered with 429 or 503", refused, "orders")
    others = sum(run.refused.values()) - refused + len(run.unanswered)
    yield Figure(SECTION, f"{at}: answered with something else, or not at all", others, "orders", at_most=0)
    yield Figure(SECTION, f"{at}: gave up in front of the API", run.unsent, "orders")
    yield Figure(SECTION, f"{at}: sent late", run.late, "orders")
    yield Figure(SECTION, f"{at}: until all is drained", waited + sheet.drained_seconds, "s")
    yield Figure(SECTION, f"{at}: rows of the balance sheet that are wrong", len(sheet.failed), "rows", at_most=0)
