"""Records of every kind that cannot be handled, between others that can."""

import re
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from dev.servers import Servers
from dev.servers.places import free_port
from tests.faults.stage import RUNTIME, Stage, Worker, headers
from tests.faults.trail import DOWN


@pytest.fixture
def stage(servers: Servers, tmp_path: Path) -> Iterator[Stage]:
    """A service whose input has one partition, so that everything is in one order."""
    with Stage(servers, tmp_path, partitions=1) as stage:
        yield stage
        stage.show()


def logged(worker: Worker, pattern: str) -> bool:
    return re.search(pattern, worker.log()) is not None


def rolled_back(worker: Worker) -> float:
    """Return how often a worker tried a batch in vain; its log folds repeated lines."""
    address = f"http://127.0.0.1:{worker.order.settings.metrics_port}/metrics"
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:  # it is just starting
        return 0
    return sum(float(line.split()[1]) for line in lines if line.startswith("exactly_once_batches_failed_total "))


class Poison(NamedTuple):
    """A record that cannot be handled."""

    error: str
    value: bytes | None
    key: bytes | None = b"key"
    head: list[tuple[str, bytes | str | None]] | None = headers("poison")


def wish(text: str, key: str = "key", number: int = 13) -> bytes:
    """Return a well-formed event with a wish."""
    return msgspec.json.encode({"trail": key, "number": number, "wish": text})


GOOD = wish("")
WITHOUT_ID = [header for header in headers("") if header[0] != "ce_id"]

POISON = {
    "no headers": Poison("Malformed", GOOD, head=None),
    "no id": Poison("Malformed", GOOD, head=WITHOUT_ID),
    "an empty id": Poison("Malformed", GOOD, head=headers("")),
    "an id of a million characters": Poison("Malformed", GOOD, head=headers("i" * 500_000)),
    "another specification": Poison("Malformed", GOOD, head=[("ce_specversion", "2.0"), *headers("poison")[1:]]),
    "a type without version": Poison("Malformed", GOOD, head=headers("poison", "Asked")),
    "a header without value": Poison("Malformed", GOOD, head=[("ce_id", None), *WITHOUT_ID]),
    "a header that is no text": Poison("Malformed", GOOD, head=[("ce_id", b"\xff\xfe"), *WITHOUT_ID]),
    "NUL in a header": Poison("Malformed", GOOD, head=[("ce_id", b"poi\x00son"), *WITHOUT_ID]),
    "no key": Poison("Malformed", GOOD, key=None),
    "an empty key": Poison("Malformed", GOOD, key=b""),
    "a key that is no text": Poison("Malformed", GOOD, key=b"\xff"),
    "NUL in the key": Poison("Malformed", GOOD, key=b"k\x00y"),
    "a tombstone": Poison("Malformed", None),
    "no JSON": Poison("Malformed", b"{"),
    "JSON of something else": Poison("Malformed", b'{"some": "thing"}'),
    "a field of another type": Poison("Malformed", b'{"trail": "key", "number": "many"}'),
    "text that is not UTF-8": Poison("Malformed", b'{"trail": "k\xffy", "number": 1}'),
    "nothing": Poison("Malformed", b""),
    "a huge value": Poison("Malformed", b"[" * 900_000),
    "rejected by the handler": Poison("Reject", wish("reject")),
    "rejected with NUL in the reason": Poison("Reject", wish("reject with NUL")),
    "a defect of the handler": Poison("Unlucky", wish("defect")),
    "NUL in a text that is stored": Poison("DataError", wish("NUL")),
    "NUL in the key of an aggregate": Poison("DataError", wish("", key="k\x00y")),
    "a number that the column cannot hold": Poison("DataError", wish("", number=2**63)),
    "an answer that Kafka would refuse": Poison("Reject", wish("publish 2000000")),
}


def test_poison_of_every_kind_is_set_aside_and_everything_else_is_handled(stage: Stage) -> None:
    for poison in POISON.values():
        stage.ask()
        stage.produce(poison.key, poison.value, poison.head)
        stage.flush()
    stage.ask()
    stage.worker()
    stage.until(
        lambda: stage.one("SELECT count(*) FROM exactly_once_dead_letter") >= len(POISON), "all poison is set aside"
    )
    stage.until_drained()
    stage.stop()

    dead_letters = stage.connection.execute(
        'SELECT error, value, key FROM exactly_once_dead_letter ORDER BY "offset"'
    ).fetchall()
    found = dict(zip(POISON, dead_letters, strict=True))
    assert {name: error for name, (error, _, _) in found.items()} == {name: p.error for name, p in POISON.items()}
    assert {name: dead_letter[1:] for name, dead_letter in found.items()} == {
        name: (p.value, p.key) for name, p in POISON.items()
    }
    stage.rejected = [(name, 0) for name in POISON]
    assert stage.problems() == []


def test_a_dead_letter_tells_where_the_record_came_from_and_why(stage: Stage) -> None:
    stage.ask(wish="reject", keys=stage.keys[:1], poison=True)
    stage.worker()
    stage.until_drained()
    (told,) = stage.read(stage.kit.service.dead_letter_topic)
    assert msgspec.json.decode(told.data) == {
        "dead_letter": stage.one("SELECT id FROM exactly_once_dead_letter"),
        "source_topic": stage.kit.asked.topic,
        "partition": 0,
        "offset": 0,
        "error": "Reject",
        "detail": "number 1 is never welcome",
    }
    assert told.key == stage.keys[0]


def test_a_defect_tells_its_place_and_its_record_in_the_log_and_in_the_dead_letter(stage: Stage) -> None:
    stage.ask(wish="defect", keys=stage.keys[:1], poison=True)
    stage.ask(wish="reject", keys=stage.keys[:1], poison=True)
    worker = stage.worker(log_format="json")
    stage.until_drained()
    stage.stop()

    defect, reject = (
        row[0] for row in stage.connection.execute("SELECT traceback FROM exactly_once_dead_letter ORDER BY id")
    )
    first, place, *_ = defect.splitlines()
    assert (first, place.split(":")[0]) == ("Unlucky", "  tests/faults/trail.py")
    assert "in handle: raise Unlucky(" in place
    assert reject.startswith("Reject\n  tests/faults/trail.py:")
    lines = [msgspec.json.decode(line) for line in worker.log().splitlines() if line.startswith("{")]
    for name in ("batch_failed", "set_aside"):
        told = next(line for line in lines if line["event"] == name and line["error"] == "Unlucky")
        assert told["traceback"] == defect
        assert (told["topic"], told["partition"], told["offset"]) == (stage.kit.asked.topic, 0, 0)
        assert (told["key"], told["event_type"]) == (stage.keys[0], "Asked.v1")
        assert told["detail"] == "number 1"


def test_a_type_that_nobody_handles_is_skipped(stage: Stage) -> None:
    stage.produce("key", b"anything", headers("1", "Whatever.v1"))
    stage.ask()
    stage.worker()
    stage.until_drained()
    stage.stop()
    assert stage.problems() == []


def test_a_version_that_is_not_known_yet_waits_for_somebody_who_knows_it(stage: Stage) -> None:
    """In a rolling upgrade the producer may be ahead; that must not set its events aside."""
    stage.ask()
    stage.produce("key", GOOD, headers("1", "Asked.v2"))
    worker = stage.worker(metrics_port=free_port())
    stage.until_drained()
    stage.until(lambda: worker.ready() == (503, "working: 1 inputs, 1 lanes, 1 parked\n"), "the worker is not ready")
    stage.until(lambda: "Asked.v2 is unknown, only [1]" in worker.log(), "the log says what to do")
    assert stage.one("SELECT next_offset FROM exactly_once_position") == len(stage.keys)


def test_where_nothing_may_be_parked_a_record_that_waits_parks_its_input(servers: Servers, tmp_path: Path) -> None:
    with Stage(servers, tmp_path, partitions=2, retry_seconds_max=0.5, parked_records_max=0) as stage:
        stage.connection.execute(f"CREATE TABLE {DOWN} ()".encode())
        waiting, other = [[key for key in stage.keys if key in pair] for pair in (stage.keys[:2], stage.keys[2:])]
        stage.ask(waiting)
        stage.ask(waiting[:1], wish="retry")
        stage.ask(waiting)
        stage.ask(other)
        worker = stage.worker(metrics_port=free_port())
        stage.until(lambda: "1 parked" in worker.ready()[1], "one input is parked")
        stage.ask(other)
        handled = len(waiting) + 2 * len(other)
        stage.until(lambda: stage.one("SELECT count(*) FROM effect") == handled, "the other input goes on")
        stage.until(lambda: rolled_back(worker) >= 3, "it is tried again and again")
        assert stage.one("SELECT count(*) FROM effect") == handled
        assert worker.ready()[0] == 503
        told = next(line for line in worker.log().splitlines() if "retry_later" in line)
        for words in (f"detail='{DOWN} exists'", f"key={waiting[0]}", "offset=", "event_type=Asked.v1", "trail.py:"):
            assert words in told

        stage.connection.execute(f"DROP TABLE {DOWN}".encode())
        stage.until_drained()
        stage.until(lambda: worker.ready()[0] == 200, "the worker is ready again")
        stage.stop()
        assert stage.problems() == []


def test_a_table_that_is_missing_waits_and_goes_on_when_it_is_there(servers: Servers, tmp_path: Path) -> None:
    """No record is at fault: a wrong deploy makes no dead letters. A failure in the flush names the service too."""
    with Stage(servers, tmp_path, retry_seconds_max=0.5) as stage:
        stage.connection.execute("ALTER TABLE effect RENAME COLUMN number TO renamed")
        stage.ask(stage.keys[:1], wish="table")
        stage.ask()
        worker = stage.worker(metrics_port=free_port(), retry_attempts_max=1)
        stage.until(lambda: rolled_back(worker) >= 3, "it is tried again and again")
        assert worker.ready()[0] == 503
        assert "UndefinedTable" in worker.log()
        assert "trail.py:" in worker.log()
        stage.until(lambda: "UndefinedColumn" in worker.log(), "other inputs fail when their rows are written")
        for place in (
            r"tests/faults/trail\.py, Effect, table effect: ",
            r"trail\.py:\d+ in \S+: handles Asked\.v1, 1 ",
        ):
            stage.until(partial(logged, worker, place), f"its log names {place}")

        stage.connection.execute("ALTER TABLE effect RENAME COLUMN renamed TO number")
        stage.connection.execute("CREATE TABLE not_migrated_yet ()")
        stage.connection.execute(f"GRANT SELECT ON not_migrated_yet TO {RUNTIME}".encode())
        stage.until_drained()
        stage.stop()
        assert stage.one("SELECT count(*) FROM exactly_once_dead_letter") == 0
        assert stage.problems() == []


def test_equal_defects_of_different_keys_stop_the_worker_at_once(servers: Servers, tmp_path: Path) -> None:
    with Stage(servers, tmp_path, equal_failures_max=3) as stage:
        stage.ask(stage.keys, wish="defect", poison=True)
        worker = stage.worker(metrics_port=free_port())
        stage.until(lambda: "stopped: TooManyDeadLetters" in worker.ready()[1], "the worker stops")
        assert "EQUAL_FAILURES_MAX = 3: Unlucky: number" in worker.ready()[1]
        assert stage.one("SELECT count(*) FROM exactly_once_dead_letter") == 3
        stage.stop()


def test_too_much_poison_stops_the_worker_with_the_reason(servers: Servers, tmp_path: Path) -> None:
    with Stage(servers, tmp_path, dead_letters_per_minute_max=5) as stage:
        stage.ask(stage.keys * 2, wish="reject", poison=True)
        worker = stage.worker(metrics_port=free_port())
        stage.until(lambda: "stopped: TooManyDeadLetters" in worker.ready()[1], "the worker stops")
        status, reason = worker.ready()
        assert status == 503
        assert "DEAD_LETTERS_PER_MINUTE_MAX = 5" in reason
        assert "is never welcome" in reason
        stage.stop()
