"""`python -m tests.faults.fuzzing`: records of every shape through a real worker on real servers.

One in ten is honest. Exit code 0 only if no process ended, every honest record took effect once, and every other one
took effect, was skipped, was dropped as a duplicate, or was set aside with a notice.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from dev.hostile.raw import RawProducer
from dev.hostile.records import record
from dev.servers import running
from shared.testing import until
from tests.integration.strangers import FIRST, Counts, Worker, good, target, worker
from tests.integration.tallies import Tallies

HONEST = 10
"""One record of so many is honest."""

PARTITIONS = 2

SHOW_SECONDS = 10.0

PER_SECOND_MIN = 100
"""A worker that handles fewer than this is stuck."""


def main() -> int:
    """Send what the command line says, and count the outcome."""
    parser = argparse.ArgumentParser(prog="make fuzz", description="Records of every shape through a real worker.")
    parser.add_argument("--records", type=int, default=20_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="makes the same records again")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"{options.records:,} records; the same again: SEED={seed}", flush=True)
    bounds = {"dead_letters_per_minute_max": 10**6, "retry_attempts_max": 1, "retry_seconds_max": 0.05}
    with (
        running() as servers,
        Tallies(servers, partitions=PARTITIONS, **bounds) as tallies,
        tempfile.TemporaryDirectory() as place,
        worker(tallies, Path(place) / "log") as at_work,
    ):
        began = time.monotonic()
        honest = _send(tallies, random.Random(seed), options.records)
        ended = _wait(at_work, options.records, began)
        counts = Counts(0, 0, 0, 0)
        if not ended:
            # A batch is counted after its commit.
            until(lambda: sum(at_work.counts()) >= options.records, "all are counted")
            counts = at_work.counts()
        print(f"in {time.monotonic() - began:.0f} s", flush=True)
        return _report(tallies, counts, honest, options.records, ended=ended)


def _send(tallies: Tallies, chance: random.Random, records: int) -> int:
    honest = 0
    with RawProducer(tallies.settings.kafka_bootstrap_servers) as producer:
        for number in range(records):
            if number % HONEST == 0:
                producer.send(good(tallies, FIRST + number))
                honest += 1
            else:
                producer.send(record(chance, target(tallies, chance), f"fuzz-{number}"))
        producer.flush()
    return honest


def _wait(at_work: Worker, records: int, began: float) -> bool:
    """Wait until all is handled; return whether the process ended before."""
    shown, deadline = time.monotonic(), began + 60 + records / PER_SECOND_MIN
    try:
        while not at_work.done():
            now = time.monotonic()
            if now > deadline:
                print(f"not done after {now - began:.0f} s")
                return True
            if now - shown >= SHOW_SECONDS:
                shown = now
                print(f"{now - began:6.0f} s  {sum(at_work.counts()):,}  {at_work.rss() >> 20} MB", flush=True)
            time.sleep(0.2)
    except (AssertionError, OSError) as error:
        print(error)
        return True
    return False


def _report(tallies: Tallies, counts: Counts, honest: int, records: int, *, ended: bool) -> int:
    effects = tallies.sql("SELECT number FROM effect WHERE number >= %s AND number < %s", FIRST, FIRST + records)
    dead_letters = tallies.sql("SELECT count(*) FROM exactly_once_dead_letter")[0]
    with psycopg.connect(tallies.servers.postgres.dsn(tallies.name)) as connection:
        errors = connection.execute(
            "SELECT error, count(*) FROM exactly_once_dead_letter GROUP BY 1 ORDER BY 2 DESC"
        ).fetchall()
    waiting = tallies.sql("SELECT count(*) FROM exactly_once_outbox")[0]
    figures = {
        "records": records,
        "took effect": counts.handled,
        "skipped": counts.skipped,
        "duplicates": counts.duplicates,
        "set aside": dead_letters,
        "honest": honest,
        "honest that took effect": len(effects),
        "honest that took effect twice": len(effects) - len(set(effects)),
        "ended processes": int(ended),
    }
    for name, figure in figures.items():
        print(f"{name:30} {figure:>12,}")
    print("set aside for:", ", ".join(f"{count:,} {error}" for error, count in errors))
    print(f"{waiting} events wait to be published")
    balanced = (
        sum(counts) == records
        and counts.set_aside == dead_letters
        and sorted(effects) == list(range(FIRST, FIRST + records, HONEST))
    )
    print("It balances." if balanced and not ended else "IT DOES NOT BALANCE.")
    return int(ended or not balanced)


if __name__ == "__main__":
    sys.exit(main())
