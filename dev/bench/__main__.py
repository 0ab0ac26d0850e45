"""`python -m dev.bench`: measure, and print a table."""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator

import structlog

from dev.bench import capacity, latency, machine, million, parked, relay, report, restart, scheduled, throughput, traces
from dev.bench.inventory import BenchError
from dev.bench.warm import warm
from dev.servers import ServerError, Servers, echo, running

Measure = Callable[[Servers, argparse.Namespace], Iterator[report.Figure]]

SECTIONS: dict[str, Measure] = {
    "events": lambda servers, given: throughput.measure(servers, echo, events=given.events, naive=given.naive),
    "relay": lambda servers, given: relay.measure(servers, echo, rows=given.rows),
    "latency": lambda servers, given: latency.measure(servers, echo, rates=given.rates, seconds=given.seconds),
    "capacity": lambda servers, given: capacity.measure(servers, echo, seconds=given.overload_seconds),
    "restart": lambda servers, given: restart.measure(servers, echo, kills=given.kills),
    "parked": lambda servers, given: parked.measure(servers, echo, events=4 * given.events),
    "scheduled": lambda servers, given: scheduled.measure(servers, echo, waiting=given.million),
    "traces": lambda servers, given: traces.measure(servers, echo, events=given.events),
    "million": lambda servers, given: million.measure(servers, echo, events=given.million),
}
LONG = ("capacity", "traces", "million")
WARMED = ("latency", "capacity")
"""Sections whose figures stand for themselves: their broker is one that has been up for a while."""
RATES = [10, 50, 100, 200]
BY_DEFAULT = [name for name in SECTIONS if name not in LONG]


def main() -> None:
    given = _arguments()
    # As a worker logs by default, apart from the figures: some of what is measured runs in this process.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    figures: list[report.Figure] = []
    facts: dict[str, str] = {}
    for name in given.sections or BY_DEFAULT:
        began = time.monotonic()
        try:
            with running(long_lived=name in WARMED, report=lambda _: None) as servers:
                facts = facts or machine.describe(servers)
                if name in WARMED:
                    warm(servers, echo, given.warm_seconds)
                figures += SECTIONS[name](servers, given)
        except (BenchError, ServerError) as error:
            sys.exit("\n".join([f"{name}: {error}", *getattr(error, "__notes__", ())]))
        echo(f"{name}: done in {time.monotonic() - began:.0f} s")
    report.write(figures, facts, as_json=given.json, markdown=given.markdown)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dev.bench", description="Measure what the guarantee costs.")
    parser.add_argument(
        "sections", nargs="*", metavar="section", help=f"of {', '.join(SECTIONS)}; default: all but {', '.join(LONG)}"
    )
    parser.add_argument("--events", type=_count, default=40_000, help="orders that the worker handles (40000)")
    parser.add_argument("--naive", type=_count, default=500, help="orders that the naive loop handles (500)")
    parser.add_argument("--rows", type=_count, default=100_000, help="rows of the full outbox (100000)")
    parser.add_argument("--rates", type=_count, nargs="+", default=RATES, help="orders per second (10 50 100 200)")
    parser.add_argument("--seconds", type=float, default=30.0, help="time of each rate (30)")
    parser.add_argument("--overload-seconds", type=float, default=60.0, help="time of twice the most (60)")
    parser.add_argument("--warm-seconds", type=float, default=60.0, help="work of the broker before both (60)")
    parser.add_argument("--kills", type=_count, default=20, help="kills of the worker (20)")
    parser.add_argument(
        "--million", type=_count, default=1_000_000, help="events of that section, and those that wait (1000000)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    given = parser.parse_args()
    unknown = set(given.sections) - SECTIONS.keys()
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    return given


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return count


if __name__ == "__main__":
    main()
