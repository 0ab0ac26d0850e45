"""A worker process of the small service, and a stranger who writes to its topic."""

import os
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

from confluent_kafka import TopicPartition
from confluent_kafka.admin._listoffsets import OffsetSpec
from prometheus_client.parser import text_string_to_metric_families

from dev.hostile.raw import Raw
from dev.hostile.records import Target
from dev.servers.places import free_port
from shared.testing import SECONDS_MAX
from tests.integration.tallies import Tallies

FIRST = 10**9
"""The first honest record's number: a stranger may hit upon small ones."""


class Counts(NamedTuple):
    """What a worker did with its records."""

    handled: int
    duplicates: int
    skipped: int
    set_aside: int


class Worker:
    """A worker process."""

    def __init__(self, tallies: Tallies, log: Path, **more: object) -> None:
        self._tallies = tallies
        self.port = free_port()
        self.log = log
        self.process = tallies.process(log, metrics_port=self.port, **more)

    def done(self) -> bool:
        """Return whether it has handled all. Raises `AssertionError` if it has ended."""
        assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.log.read_bytes()[-2_000:]!r}"
        handled = dict(self._tallies.sql("SELECT ARRAY[partition, next_offset] FROM exactly_once_position"))
        return handled == ends(self._tallies)

    def counts(self) -> Counts:
        """Read its metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = {s.name: int(s.value) for family in text_string_to_metric_families(text) for s in family.samples}
        names = (
            "exactly_once_events_handled",
            "exactly_once_events_duplicate",
            "exactly_once_events_skipped",
            "exactly_once_records_set_aside",
        )
        return Counts(*(found[f"{name}_total"] for name in names))

    def rss(self) -> int:
        """Return its memory in bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def ends(tallies: Tallies) -> dict[int, int]:
    """Return the end of each input partition."""
    topic = tallies.asked.topic
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = {TopicPartition(topic, p): latest for p in range(tallies.settings.partitions)}
    found = tallies.admin.list_offsets(asked)
    return {p.partition: future.result(SECONDS_MAX).offset for p, future in found.items()}


@contextmanager
def worker(tallies: Tallies, log: Path, **more: object) -> Iterator[Worker]:
    """Run a worker; at the end it is asked to stop, and killed if it does not."""
    started = Worker(tallies, log, **more)
    try:
        yield started
    finally:
        started.process.terminate()
        try:
            started.process.wait(30)
        except subprocess.TimeoutExpired:
            started.process.kill()
            started.process.wait(30)


def target(tallies: Tallies, random: Random) -> Target:
    """Return an event that the service understands, for a key of the stranger's."""
    key = f"stranger-{random.randrange(50)}"
    return Target(tallies.asked.topic, "Asked.v1", {"trail": key, "number": -1, "wish": ""}, key)


def good(tallies: Tallies, number: int) -> Raw:
    """Return an honest record."""
    key = f"honest-{number % 50}"
    headers = [(name.encode(), value) for name, value in _headers(f"asked-{number}")]
    return Raw(tallies.asked.topic, key.encode(), f'{{"trail":"{key}","number":{number}}}'.encode(), headers)


def _headers(identity: str) -> list[tuple[str, bytes]]:
    facts = {"ce_specversion": "1.0", "ce_source": "test", "ce_id": identity, "ce_type": "Asked.v1"}
    return [(name, fact.encode()) for name, fact in facts.items()]
