"""A worker of the small service in this process: it works until done, or dies where a test wants."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from shared.errors import KafkaInDoubt, RecoveryNeeded, Unavailable
from shared.kafka.client import KafkaClient
from shared.operations.group import Group
from shared.postgres.handlers import Handlers
from shared.postgres.transaction import WorkerDatabase
from shared.protocol.cycle import Cycle, Limits
from shared.protocol.parking import Bounds
from shared.service import Service
from shared.settings import Settings
from shared.testing import SECONDS_MAX, until
from shared.worker import startup
from tests.faults import trail


class Died(BaseException):
    """The worker dies here; nothing catches it."""


def work(kit: trail.Kit, settings: Settings, *, die: str | None, leave: bool, **limits: int) -> None:
    """Work until nothing is left to do, or die with a claim that is `unpublished` or was just `published`.

    Without `leave` it ends like a killed one: Kafka learns of it by the session timeout.
    """
    built, service = trail.container(kit, settings), kit.service
    with closing(built.worker_engine().dispose):
        startup.check_topics(built.worker_engine(), settings, service)
        database = built.worker_database()
        with closing(database.close):
            until(database.take_slot, "a slot is free")
            kafka = built.kafka(slot=database.slot)
            with closing(kafka.close), closing(kafka.leave if leave else lambda: None), suppress(Died):
                _run(service, settings, Mortal(kafka, die) if die else kafka, database, limits)


def _run(service: Service, settings: Settings, kafka: Any, database: WorkerDatabase, limits: dict[str, int]) -> None:
    parked = Bounds(100, 1_000_000, 100, math.inf) if limits.pop("parks", 0) else None
    bounds = Limits(**{"records": 100, "rows": 100, **limits}, parked=parked)
    handlers = Handlers(service)
    cycle = Cycle(service.name, kafka, database, handlers.open, bounds, holds=handlers.holds)
    deadline, in_doubt = time.monotonic() + SECONDS_MAX, True
    with Group(settings, service) as group:
        while in_doubt or not _settled(settings.partitions, group, cycle, database):
            assert time.monotonic() < deadline, "the worker does not come to rest"
            try:
                if in_doubt:
                    cycle.recover()
                in_doubt = False
                cycle.run(0.02, report=True)
                cycle.retry(count=True)
            except RecoveryNeeded:
                in_doubt = True
            except Unavailable:
                time.sleep(0.1)


def _settled(lanes: int, group: Group, cycle: Cycle, database: WorkerDatabase) -> bool:
    """Return whether all is owned, handled and published; what is parked waits for ever."""
    if len(cycle.owned.lanes) < lanes:
        return False
    ends = group.spans(cycle.owned.inputs)
    handled, parked = database.positions(cycle.owned.inputs), cycle.parked()
    lag = [
        source
        for source in cycle.owned.inputs
        if source not in parked and (source not in handled or handled[source].next_offset != ends[source].stable)
    ]
    rests = not any(claim.rows for claim in database.claims(cycle.owned.lanes).values())
    return not lag and rests and not database.unpublished(cycle.owned.lanes)


@contextmanager
def closing(end: Callable[[], object]) -> Iterator[None]:
    """Call `end` when the block ends."""
    try:
        yield
    finally:
        end()


class Mortal:
    """A Kafka port that dies before or after it publishes rows."""

    def __init__(self, real: KafkaClient, die: str) -> None:
        self._real = real
        self._die = die
        self._publishing = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)

        def call(*arguments: Any) -> Any:
            if name == "produce" and arguments[0]:
                self._publishing = True
                if self._die == "unpublished":
                    raise Died
            try:
                return found(*arguments)
            except KafkaInDoubt as doubt:
                if not str(doubt).startswith("committed"):  # it was slow, and did happen
                    self._publishing = False
                raise
            finally:
                if name == "commit" and self._publishing:
                    raise Died

        return call
