"""A handler that asks for another attempt lets its key wait, on real servers: the rest of its partition goes on."""

import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.servers import Servers
from dev.servers.places import free_port
from tests.faults.stage import Stage, Worker
from tests.faults.trail import DOWN


@pytest.fixture
def stage(servers: Servers, tmp_path: Path) -> Iterator[Stage]:
    """A service whose input has one partition, and whose dependency is down."""
    with Stage(servers, tmp_path, partitions=1, retry_seconds_max=0.5) as stage:
        stage.connection.execute(f"CREATE TABLE {DOWN} ()".encode())
        yield stage
        stage.show()


def value(worker: Worker, name: str) -> float | None:
    address = f"http://127.0.0.1:{worker.order.settings.metrics_port}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else None


def effects(stage: Stage) -> int:
    return stage.one("SELECT count(*) FROM effect")


def parked(stage: Stage) -> int:
    return stage.one("SELECT count(*) FROM exactly_once_parked")


def test_one_key_waits_and_the_rest_of_its_partition_goes_on(stage: Stage) -> None:
    bad, good = stage.keys[:1], stage.keys[1:]
    stage.ask(bad)
    stage.ask(bad, wish="retry")
    stage.ask(bad)
    stage.ask(good)
    worker = stage.worker(metrics_port=free_port())
    stage.until(lambda: parked(stage) == 2, "the record and the one behind it are parked")
    stage.ask(good)
    stage.ask(bad)
    handled = 1 + 2 * len(good)
    stage.until(lambda: effects(stage) == handled, "the others go on")
    stage.until(lambda: parked(stage) == 3, "a later one waits behind them")
    stage.until(lambda: worker.ready() == (200, "working: 1 inputs, 1 lanes; 1 keys parked\n"), "that is normal")
    stage.until(lambda: stage.one("SELECT max(attempts) FROM exactly_once_parked") > 2, "it is tried again and again")
    stage.until(lambda: value(worker, "exactly_once_parked_records") == 3.0, "the metrics know")
    assert value(worker, "exactly_once_parked_keys") == 1.0
    assert (value(worker, "exactly_once_parked_oldest_seconds") or 0) > 0
    told = next(line for line in worker.log().splitlines() if "key_parked" in line)
    for words in (f"detail='{DOWN} exists'", f"key={bad[0]}", "offset=", "event_type=Asked.v1", "trail.py:"):
        assert words in told

    stage.connection.execute(f"DROP TABLE {DOWN}".encode())
    stage.until_drained()
    stage.until(lambda: worker.ready() == (200, "working: 1 inputs, 1 lanes\n"), "no key waits")
    assert parked(stage) == 0
    stage.stop()
    assert stage.problems() == [], "the order of the key, too"


def test_what_is_parked_outlives_its_worker(stage: Stage) -> None:
    bad = stage.keys[:1]
    stage.ask(bad, wish="retry")
    stage.ask()
    first = stage.worker()
    stage.until(lambda: parked(stage) == 2, "they are parked")
    first.stopped = True
    first.send(signal.SIGKILL)
    stage.worker()
    stage.ask()
    stage.until(lambda: parked(stage) == 3, "its successor knows that the key is held")
    stage.connection.execute(f"DROP TABLE {DOWN}".encode())
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []


def test_a_parked_record_at_which_its_process_ends_is_set_aside_and_its_key_goes_on(stage: Stage) -> None:
    bad = stage.keys[:1]
    stage.ask(bad, wish="retry, then crash", poison=True)
    stage.ask()
    worker = stage.worker()
    stage.until(lambda: parked(stage) == 2, "they are parked")
    stage.connection.execute(f"DROP TABLE {DOWN}".encode())

    def rested() -> bool:
        if not worker.running:
            worker.again()
        return stage.drained()

    stage.until(rested, "it is set aside, and the one behind it is handled")
    stage.stop()
    assert stage.problems() == []


@pytest.mark.parametrize("bound", [{"parked_records_max": 2}, {"parked_bytes_max": 300}, {"parked_keys_max": 1}])
def test_beyond_a_bound_the_partition_waits_and_goes_on_when_there_is_room(
    servers: Servers, tmp_path: Path, bound: dict[str, Any]
) -> None:
    with Stage(servers, tmp_path, partitions=1, retry_seconds_max=0.5, **bound) as stage:
        stage.connection.execute(f"CREATE TABLE {DOWN} ()".encode())
        stage.ask(stage.keys[:2], wish="retry")
        stage.ask()
        stage.ask()
        worker = stage.worker(metrics_port=free_port())
        stage.until(lambda: "1 parked" in worker.ready()[1], "the input waits")
        assert worker.ready()[0] == 503
        assert "ParkingFull" in worker.log()
        stage.connection.execute(f"DROP TABLE {DOWN}".encode())
        stage.until_drained()
        stage.until(lambda: worker.ready()[0] == 200, "it is ready again")
        stage.stop()
        assert stage.problems() == []


def test_nothing_is_parked_before_the_last_migration(stage: Stage) -> None:
    """Processes of the version before may run until then."""
    stage.connection.execute("ALTER TABLE exactly_once_parked ADD CONSTRAINT exactly_once_parked_not_yet CHECK (false)")
    stage.ask(stage.keys[:1], wish="retry")
    stage.ask()
    worker = stage.worker(metrics_port=free_port())
    stage.until(lambda: "1 parked" in worker.ready()[1], "the input waits")
    assert (parked(stage), effects(stage)) == (0, 0)
    stage.connection.execute(f"DROP TABLE {DOWN}".encode())
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []
