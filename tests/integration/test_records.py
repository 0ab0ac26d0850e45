"""Any record takes effect, is skipped, or is set aside, and what is reported of it is bounded."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from random import Random
from unittest import mock

import psycopg
import pytest
from psycopg import sql

from dev.hostile.raw import Raw, RawProducer
from dev.hostile.records import SHAPES, every_shape
from dev.servers import Servers
from dev.servers.places import free_port
from dev.servers.postgres import Postgres
from shared import command
from shared.container import ServiceContainer
from shared.kafka import consumer
from shared.settings import Settings
from shared.telemetry import metrics
from shared.testing import until
from tests.faults import record_size, trail
from tests.faults.stage import Stage
from tests.integration.strangers import FIRST, good, target, worker
from tests.integration.tallies import Tallies

EACH = 12
BIG = 1_040_000


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    with Tallies(servers, partitions=2, retry_attempts_max=1, retry_seconds_max=0.05) as made:
        yield made


def send(tallies: Tallies, *records: Raw, **more: str) -> None:
    with RawProducer(tallies.settings.kafka_bootstrap_servers, more) as producer:
        for record in records:
            producer.send(record)
        producer.flush()


def honest(tallies: Tallies, first: int = 0) -> list[int]:
    return tallies.sql("SELECT number FROM effect WHERE number BETWEEN %s AND %s ORDER BY 1", first, first + 10**6)


def test_records_of_every_shape_end_no_worker_and_hold_up_nobody(tallies: Tallies, tmp_path: Path) -> None:
    random = Random(10)
    hostile = [r for _ in range(EACH) for r in every_shape(random, target(tallies, random), 1)]
    records = [r for n, one in enumerate(hostile) for r in (one, good(tallies, FIRST + n))]
    with worker(tallies, tmp_path / "log", dead_letters_per_minute_max=100_000) as at_work:
        send(tallies, *records)
        until(at_work.done, "everything is handled", 100)
        until(lambda: sum(at_work.counts()) >= len(records), "the last batch is counted: that comes after its commit")
        counts = at_work.counts()

    assert len(hostile) == EACH * len(SHAPES)
    assert at_work.process.returncode == 0
    assert sum(counts) == len(records), counts
    assert min(counts) > 0, counts
    assert honest(tallies, FIRST) == list(range(FIRST, FIRST + len(hostile)))
    assert counts.set_aside == len(tallies.sql("SELECT id FROM exactly_once_dead_letter"))
    told = tallies.read(tallies.service.dead_letter_topic)
    assert len(told) == counts.set_aside
    assert max(len(n.value()) + len(n.key()) for n in told) < 10_000
    assert max(map(len, (tmp_path / "log").read_bytes().splitlines())) < 10_000


def test_an_oversize_key_is_not_copied(tallies: Tallies) -> None:
    """Otherwise the service would owe an event that it can never publish."""
    tallies.sql("INSERT INTO switch VALUES ('reject')")
    wrong, right = good(tallies, 1), good(tallies, 2)
    send(
        tallies,
        wrong._replace(key=b"k" * BIG, value=b'{"trail":"k","number":1,"wish":"while reject"}'),
        right._replace(key=b"k" * BIG),
    )

    tallies.work()

    assert (honest(tallies), tallies.numbers()) == ([2], {2: 1})
    (told,) = tallies.read(tallies.service.dead_letter_topic)
    assert told.key().decode().startswith(f"{tallies.asked.topic}[")
    assert tallies.sql("SELECT length(key) FROM exactly_once_dead_letter") == [BIG]


def test_a_traceparent_is_copied_only_if_it_is_one(tallies: Tallies) -> None:
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for number, held in enumerate((trace, b"x" * BIG, b"\xff")):
        record = good(tallies, number)
        send(tallies, record._replace(headers=[*record.headers, (b"traceparent", held)]))

    tallies.work()

    traces = {
        json.loads(r.value())["number"]: dict(r.headers()).get("traceparent") for r in tallies.read(tallies.told.topic)
    }
    assert traces == {0: trace, 1: None, 2: None}


def test_a_key_that_does_not_fit_beside_its_event_is_refused(tallies: Tallies) -> None:
    long, short = "k" * 5_000, "k" * 2_000
    for number, key in enumerate((long, short)):
        record = good(tallies, number)
        send(tallies, record._replace(value=json.dumps({"trail": key, "number": number}).encode()))

    tallies.work()

    assert honest(tallies) == [1]
    assert "the key of Told" in tallies.sql("SELECT detail FROM exactly_once_dead_letter")[0]


def test_a_notice_fits_the_least_that_an_event_may_have(tallies: Tallies) -> None:
    tallies.settings = tallies.settings.model_copy(update={"event_bytes_max": 1_024})
    wrong = good(tallies, 1)
    send(tallies, wrong._replace(headers=[*wrong.headers[:-1], (b"ce_type", b"\x01" * 500)]))

    tallies.work()

    (told,) = tallies.read(tallies.service.dead_letter_topic)
    assert len(told.value()) <= 1_024
    assert len(tallies.sql("SELECT detail FROM exactly_once_dead_letter")[0]) > 1_000


def test_a_record_larger_than_postgresql_takes_is_kept_as_its_beginning(
    tallies: Tallies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.postgres.dead_letters.KEPT_BYTES_MAX", 10_000)
    monkeypatch.setattr("shared.postgres.dead_letters.CUT_BYTES", 100)
    send(tallies, good(tallies, 1)._replace(value=b"x" * 20_000))

    tallies.work()

    assert tallies.sql("SELECT ARRAY[length(value), jsonb_array_length(headers)] FROM exactly_once_dead_letter") == [
        [100, 0]
    ]
    assert "only the first 100 of the value are kept" in tallies.sql("SELECT detail FROM exactly_once_dead_letter")[0]


def test_a_batch_that_is_large_when_it_is_unpacked_holds_up_nobody(tallies: Tallies) -> None:
    """The broker counts its bytes as they came: 110 MB of zeros are 10 kB. The client's default stops there."""
    bomb, right = good(tallies, 1)._replace(partition=0), good(tallies, 2)._replace(partition=0)
    packed = {"compression.type": "zstd", "message.max.bytes": "1000000000"}
    send(tallies, bomb._replace(value=b"\0" * 110_000_000), **packed)
    send(tallies, right)

    tallies.work()

    assert honest(tallies) == [2]
    assert tallies.sql("SELECT length(value) FROM exactly_once_dead_letter") == [1_000_000]


def takes_little(name: str, settings: Settings) -> ServiceContainer:
    """Let batches be a tenth of the usual size, so that the test need not be large."""
    consumer.RECEIVE_BYTES_MAX = 2_000_000
    return trail.build(name, settings)


def run(stage: Stage, line: str) -> int:
    """Run a command of the service, in this process; return its exit code."""
    built = trail.build(stage.name, stage.settings)
    try:
        with mock.patch.object(metrics, "configure"):
            return command.run(built, shlex.split(line))
    finally:
        built.engine().dispose()


def test_a_batch_that_cannot_be_unpacked_is_named_with_the_command_that_passes_over_it(
    servers: Servers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other inputs go on, and so does this one after the decision. Records fetched with it are handled first."""
    with Stage(servers, tmp_path, build=takes_little) as stage:
        stage.ask()
        bomb = Raw(stage.kit.asked.topic, b"key", b"\0" * 3_000_000, partition=0)
        with RawProducer(stage.bootstrap, {"compression.type": "zstd", "message.max.bytes": "10000000"}) as producer:
            producer.send(bomb)
            producer.flush()
        before = len(stage.asked[stage.keys[2]])
        stage.ask()
        worker = stage.worker(metrics_port=free_port())
        stage.until(lambda: re.search("working: .*cannot be read from offset", worker.ready()[1]), "it says so")
        key = stage.keys[2]
        asked = stage.asked[key][before:]
        handled = "SELECT count(*) FROM effect WHERE key = %s AND number = ANY(%s)"
        stage.until(lambda: stage.one(handled, key, asked) == len(asked), "the other input goes on")
        status, words = worker.ready()
        assert status == 503
        (command_line,) = re.findall(r"`[^`]*? (positions skip [^`]*)`", words)
        assert command_line in worker.log()

        assert run(stage, "positions show") == 0
        assert command_line in capsys.readouterr().out
        stage.dismiss(worker)
        assert run(stage, f"{command_line} --yes") == 0

        worker = stage.worker(metrics_port=free_port())
        stage.until_drained()
        stage.until(lambda: worker.ready()[0] == 200, "it is ready")
        stage.stop()
        assert stage.problems() == []


def create_in_latin1(postgres: Postgres, name: str) -> None:
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'")
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute(statement.format(sql.Identifier(name)))


def test_a_database_in_another_encoding_stores_every_dead_letter(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lacks some characters: the report on a record uses others."""
    monkeypatch.setattr(Postgres, "create_database", create_in_latin1)
    with Tallies(servers) as tallies:
        wrong, right = good(tallies, 1), good(tallies, 2)
        send(
            tallies,
            wrong._replace(headers=[*wrong.headers[:-1], (b"ce_type", "\u20ac".encode()), ("\u20ac".encode(), b"x")]),
            wrong._replace(headers=[*wrong.headers[:1], (b"ce_id", "\u20ac".encode()), *wrong.headers[2:]]),
            right,
        )

        tallies.work()

        assert honest(tallies) == [2]
        assert any("\\u20ac" in detail for detail in tallies.sql("SELECT detail FROM exactly_once_dead_letter"))
        assert len(tallies.sql("SELECT id FROM exactly_once_dead_letter")) == 2


def test_an_event_as_large_as_the_setting_says_is_published(tallies: Tallies) -> None:
    record_size.limit(tallies.settings.kafka_bootstrap_servers, tallies.told.topic, 6_000_000)
    tallies.settings = tallies.settings.model_copy(update={"event_bytes_max": 5_000_000})
    tallies.outbox._event_bytes_max = 5_000_000
    tallies.request(1, padding="x" * 4_999_900)

    tallies.work()

    assert tallies.numbers() == {1: 1}


def test_setting_aside_the_notice_of_a_dead_letter_announces_nothing(tallies: Tallies) -> None:
    """A notice that Kafka refuses would be followed by another that it refuses, for ever."""
    send(tallies, good(tallies, 1)._replace(value=b"{"))
    tallies.work(die="unpublished")
    (event_id,) = tallies.sql("SELECT event_id FROM exactly_once_outbox")

    assert tallies.run(f"outbox set-aside {event_id} --yes") == 0

    assert tallies.sql("SELECT event_id FROM exactly_once_outbox") == []
    assert tallies.sql("SELECT error FROM exactly_once_dead_letter ORDER BY id") == ["Malformed", "ContentRefused"]
    assert tallies.run("dead-letters redrive 2") == 0  # it can be published after all
    assert tallies.sql("SELECT event_id FROM exactly_once_outbox") == [event_id]


def test_an_older_version_is_set_aside_and_a_newer_one_waits(tallies: Tallies) -> None:
    for number, kind in enumerate((b"Asked.v0", b"Asked.v2")):
        record = good(tallies, number)._replace(partition=0)
        send(tallies, record._replace(headers=[*record.headers[:-1], (b"ce_type", kind)]))
        tallies.work(retries=0)

    assert tallies.sql("SELECT error FROM exactly_once_dead_letter") == ["Malformed"]
    assert "older" in tallies.sql("SELECT detail FROM exactly_once_dead_letter")[0]
    assert tallies.handled() == (1, 0)
