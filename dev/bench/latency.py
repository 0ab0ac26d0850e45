"""Time from the client's POST until any consumer can read OrderConfirmed, through the whole system over HTTP, and where
the CPU goes meanwhile.

The rate is kept whatever the system does: an order's time begins when its POST is due, so a client that had to wait
behind a slow answer does not hide it.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

from dev.bench.customers import Customers
from dev.bench.meter import Meter, Spent
from dev.bench.peer_system import peer
from dev.bench.report import Figure
from dev.bench.run import Run
from dev.bench.shop import shop
from dev.servers import Echo, Servers

SECTION = "latency"
WARM_SECONDS = 5.0
QUIET_SECONDS = 5.0
"""After the last order, until nothing of it is left to do."""
IDLE_SECONDS = 20.0


class Target(NamedTuple):
    """At most, in ms."""

    p50: float | None = None
    p99: float | None = None
    cpu: float | None = None
    """Of everything, per order."""


TARGETS = {10: Target(35, 80, 35), 50: Target(45, 110, 15), 200: Target(150, 500)}


def measure(servers: Servers, report: Echo, *, rates: list[int], seconds: float) -> Iterator[Figure]:
    """Measure the system at rest, and then each rate for `seconds`."""
    report("latency: starting the whole system ...")
    ours: dict[int, float] = {}
    with shop(servers) as (system, customers, meter):
        orders = _Orders(customers, meter, report, "")
        customers.order(rates[0], WARM_SECONDS)
        report(f"latency: no orders for {IDLE_SECONDS:.0f} s ...")
        yield from _idle(meter)
        for rate in rates:
            run, spent = orders.run(rate, seconds)
            ours[rate] = spent.everything / len(run.due)
            yield from orders.figures(run, spent, TARGETS.get(rate, Target()))
        databases = system.services
    report("latency: starting the peer ...")
    with peer(servers, instead_of=databases) as (customers, meter):
        orders = _Orders(customers, meter, report, "the peer, ")
        for rate in sorted(rates):
            run, spent = orders.run(rate, seconds)
            if not run.borne:
                report(f"latency: the peer does not bear {rate} orders per second; its backlog would grow at more")
                break
            yield from orders.figures(run, spent, Target())
            price = ours[rate] * len(run.due) / spent.everything
            yield Figure(SECTION, f"{rate} orders/s: CPU per order, ours / the peer's", price, "times")


class _Orders(NamedTuple):
    """What is measured at each rate, of one system."""

    customers: Customers
    meter: Meter
    report: Echo
    whose: str

    def run(self, rate: int, seconds: float) -> tuple[Run, Spent]:
        """Order at `rate`."""
        self.customers.order(rate, WARM_SECONDS)
        self.report(f"latency: {self.whose}{rate} orders per second for {seconds:.0f} s ...")
        self.meter.start()
        run = self.customers.order(rate, seconds)
        spent = self.meter.stop()
        self.report(f"latency: {self.whose}{rate} orders per second: {run}")
        return run, spent

    def figures(self, run: Run, spent: Spent, target: Target) -> Iterator[Figure]:
        """Return the times, and what an order has cost."""
        at = f"{self.whose}{run.rate} orders/s"
        for share, at_most in ((50, target.p50), (99, target.p99)):
            seconds = run.percentile(share)
            yield Figure(SECTION, f"{at}: POST to OrderConfirmed, p{share}", 1_000 * seconds, "ms", at_most=at_most)
        yield from spent.figures(SECTION, at, len(run.due), target.cpu)


def _idle(meter: Meter) -> Iterator[Figure]:
    time.sleep(QUIET_SECONDS)
    meter.start()
    time.sleep(IDLE_SECONDS)
    spent = meter.stop()
    yield Figure(SECTION, "no orders: CPU of everything", 100 * spent.everything / spent.seconds, "% of a core")
    worker = spent.cpu["workers"] / meter.workers
    yield Figure(SECTION, "no orders: CPU of one worker", 100 * worker / spent.seconds, "% of a core", at_most=0.5)
