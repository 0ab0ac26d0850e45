"""Each policy with each command: a real disagreement is made, the worker stops and says what to do, that is done, and
the worker goes on. Then all that was asked took effect and was published as often as docs/operating.md says.
"""

import re
import shlex
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from sqlalchemy import NullPool, create_engine

from dev.servers import Servers
from shared import command
from shared.errors import DatabaseWentBack, ExactlyOnceError, KafkaWentBack, LanesDiffer, PositionMissing, RecordsLost
from shared.operations import diagnosis
from shared.testing import SECONDS_MAX, until
from tests.integration.tallies import Tallies

ROOT = Path(__file__).parents[3]


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    with Tallies(servers) as made:
        yield made


def stop(tallies: Tallies, error: type[ExactlyOnceError], *words: object) -> None:
    """Check that the worker stops with `error`; its message has `words`, and commands that work as typed."""
    with pytest.raises(error) as stopped:
        tallies.work()
    message = str(stopped.value)
    for word in words:
        assert str(word) in message
    commands = re.findall(rf"`python -m services\.{tallies.name} ([^`]*)`", message)
    assert commands, message
    for line in commands:
        command.parser(tallies.name).parse_args(shlex.split(line))


def decide(tallies: Tallies, choice: str, source: str) -> None:
    assert tallies.run(f"positions {choice} --target {source} --yes") == 0
    remembered = tallies.decisions()[-1]
    assert (remembered["command"], remembered["source"]) == (f"positions {choice}", source)


def twice(tallies: Tallies) -> set[int]:
    """Return the numbers consumed twice. A duplicate has the first one's id, so that an inbox drops it."""
    by_number: dict[int, list[str]] = {}
    for number, event_id in tallies.consumed():
        by_number.setdefault(number, []).append(event_id)
    assert all(len(ids) <= 2 and len(set(ids)) == 1 for ids in by_number.values())
    return {number for number, ids in by_number.items() if len(ids) == 2}


# ---- lanes: number 1 is published before, 99 is asked for afterwards. What comes between depends on how the published
# position and the row part.


def went_back(tallies: Tallies) -> None:
    """Restore an older database: 10 was being published, 11 waited, both were published since; 13 came after."""
    tallies.request(10, 11)
    tallies.work(die="unpublished", rows=1)
    restore = tallies.copy()
    tallies.work()
    tallies.request(12)
    tallies.work()
    restore()
    tallies.request(13)


def failed_over(tallies: Tallies) -> None:
    """Publish 10 by a claim that the database lost: it claimed again, 11 as well."""
    tallies.request(10)
    tallies.work(die="published")
    tallies.request(11)
    tallies.sql(
        "UPDATE exactly_once_lane SET claim_id = gen_random_uuid(), row_ids = ARRAY(SELECT id "
        "FROM exactly_once_outbox ORDER BY id)"
    )


def kafka_went_back(tallies: Tallies, die: str) -> None:
    """Let Kafka lose its positions of 11 and 12; 12 is still claimed."""
    tallies.request(10)
    tallies.work()
    lost = tallies.committed()[f"{tallies.service.lane_topic}[0]"]
    for number in (11, 12):
        tallies.request(number)
        tallies.work(die=die if number == 12 else None)
    tallies.commit(tallies.service.lane_topic, 0, *lost)


def group_deleted(tallies: Tallies, die: str) -> None:
    """Delete the group and all its offsets; 10 is still claimed."""
    tallies.request(10)
    tallies.work(die=die)
    tallies.forget_group()


LANES: dict[str, tuple[Callable[[Tallies], None], type[ExactlyOnceError], set[int]]] = {
    "database went back": (went_back, DatabaseWentBack, {10, 11, 12, 13}),
    "another claim": (failed_over, DatabaseWentBack, {10, 11}),
    "kafka went back, published": (lambda t: kafka_went_back(t, "published"), KafkaWentBack, {10, 11, 12}),
    "kafka went back, unpublished": (lambda t: kafka_went_back(t, "unpublished"), KafkaWentBack, {10, 11, 12}),
    "offsets deleted, published": (lambda t: group_deleted(t, "published"), PositionMissing, {10}),
    "offsets deleted, unpublished": (lambda t: group_deleted(t, "unpublished"), PositionMissing, {10}),
}
NOTHING: set[int] = set()
MATRIX = [
    # how they part, the command, what is consumed twice, what is never consumed
    ("database went back", "adopt", NOTHING, NOTHING),
    ("database went back", "rewind", {10, 11}, NOTHING),
    ("database went back", "skip", {11}, NOTHING),
    ("another claim", "adopt", NOTHING, NOTHING),
    ("another claim", "rewind", {10}, NOTHING),
    ("another claim", "skip", NOTHING, {11}),
    ("kafka went back, published", "adopt", NOTHING, NOTHING),
    ("kafka went back, published", "rewind", {12}, NOTHING),
    ("kafka went back, published", "skip", NOTHING, NOTHING),
    ("kafka went back, unpublished", "adopt", NOTHING, NOTHING),
    ("kafka went back, unpublished", "rewind", NOTHING, NOTHING),
    ("kafka went back, unpublished", "skip", NOTHING, {12}),
    ("offsets deleted, published", "adopt", NOTHING, NOTHING),
    ("offsets deleted, published", "rewind", {10}, NOTHING),
    ("offsets deleted, published", "skip", NOTHING, NOTHING),
    ("offsets deleted, unpublished", "adopt", NOTHING, NOTHING),
    ("offsets deleted, unpublished", "rewind", NOTHING, NOTHING),
    ("offsets deleted, unpublished", "skip", NOTHING, {10}),
]
CELLS = [
    pytest.param(*cell, marks=() if number % 9 % 4 == 0 else pytest.mark.proof) for number, cell in enumerate(MATRIX)
]
"""`make test` has each way to part once, and each command twice."""


@pytest.mark.parametrize(("how", "choice", "repeated", "lost"), CELLS)
def test_lane(tallies: Tallies, how: str, choice: str, repeated: set[int], lost: set[int]) -> None:
    part, error, numbers = LANES[how]
    tallies.request(1)
    tallies.work()
    part(tallies)
    position, _, _ = tallies.lane()
    published = tallies.committed().get(f"{tallies.service.lane_topic}[0]")

    stop(tallies, error, "lane 0", position, published[0] if published else "no committed offset", "--target 'lane-0'")
    decide(tallies, choice, "lane-0")

    # The row follows the published position, whatever was chosen, and no row is claimed.
    assert tallies.lane() == ((published[0], published[1] or None, 0) if published else (0, None, 0))
    tallies.request(99)
    tallies.work()
    assert twice(tallies) == repeated
    assert set(tallies.numbers()) == ({1, 99} | numbers) - lost
    assert tallies.waiting() == []
    tallies.work()  # and once more: nothing is left to stop for


@pytest.mark.parametrize("line", ["positions adopt --target lane-0", "lanes resize"])
def test_lane_without_a_row(tallies: Tallies, line: str) -> None:
    tallies.request(1)
    tallies.work()
    tallies.sql("DELETE FROM exactly_once_lane")

    stop(tallies, LanesDiffer, "the database has 0 lanes")
    assert tallies.run(f"{line} --yes") == 0

    tallies.request(2)
    tallies.work()
    assert tallies.numbers() == {1: 1, 2: 1}


def test_adopt_looks_at_every_record_in_portions(tallies: Tallies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.operations.visible.PORTION", 3)
    numbers = range(10, 21)
    tallies.request(*numbers)
    tallies.work(die="published")
    tallies.request(30, 31)
    tallies.forget_group()

    decide(tallies, "adopt", "lane-0")

    assert tallies.waiting() == [30, 31]
    tallies.work()
    assert tallies.numbers() == Counter([*numbers, 30, 31])


def test_adopt_refuses_when_the_evidence_is_gone(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.request(10)
    tallies.work(die="published")
    tallies.forget_group()
    gone = tallies.admin.delete_records([TopicPartition(tallies.told.topic, 0, 1)])
    for future in gone.values():
        future.result(SECONDS_MAX)

    assert tallies.run("positions adopt --target lane-0 --yes") == 1

    assert "retention may have removed records" in capsys.readouterr().err
    assert tallies.waiting() == [10]
    assert tallies.decisions() == []
    decide(tallies, "skip", "lane-0")
    tallies.work()
    assert tallies.numbers() == {}


@pytest.mark.parametrize("commit", [True, False])
def test_adopt_waits_for_a_transaction_that_is_open(tallies: Tallies, commit: bool) -> None:
    """A last transaction may still be ending when the group is empty: only then does it say so."""
    tallies.request(10)
    tallies.work(die="unpublished")
    tallies.forget_group()
    (event_id,) = tallies.sql("SELECT event_id FROM exactly_once_outbox")
    client = {"bootstrap.servers": tallies.settings.kafka_bootstrap_servers, "transactional.id": tallies.name}
    producer = Producer({**client, "transaction.timeout.ms": 60_000 if commit else 1_000})
    producer.init_transactions(SECONDS_MAX)
    producer.begin_transaction()
    data = tallies.sql("SELECT data FROM exactly_once_outbox")[0]
    producer.produce(tallies.told.topic, data, b"k", headers=[("ce_source", tallies.name), ("ce_id", event_id)])
    assert producer.flush(SECONDS_MAX) == 0

    code: list[int] = []
    adopting = threading.Thread(target=lambda: code.append(tallies.run("positions adopt --target lane-0 --yes")))
    adopting.start()
    until(lambda: slots_held(tallies), "it has begun")
    if commit:
        producer.commit_transaction(SECONDS_MAX)
    adopting.join(SECONDS_MAX)

    assert code == [0]
    assert tallies.waiting() == ([] if commit else [10])
    tallies.work()
    assert tallies.numbers() == {10: 1}


def slots_held(tallies: Tallies) -> bool:
    """Return whether a command has begun: it takes all slots."""
    held = """
        SELECT count(*) > 1 FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
        WHERE locktype = 'advisory' AND granted AND datname = current_database()
    """
    return tallies.sql(held) == [True]


def test_an_offset_that_no_worker_committed_is_not_followed(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    tallies.request(1)
    tallies.work()
    tallies.commit(tallies.service.lane_topic, 0, 7, "somebody")

    stop(tallies, DatabaseWentBack, 7, "somebody")
    assert tallies.run("positions adopt --target lane-0 --yes") == 1
    assert "no worker wrote" in capsys.readouterr().err


# ---- inputs


@pytest.mark.parametrize(
    ("choice", "effects", "repeated"),
    [
        ("rewind", [1, 2, 3, 4, 5], {4, 5}),
        ("skip", [1, 2, 3], NOTHING),
        ("skip --to 4", [1, 2, 3, 5], {5}),
        ("adopt", [1, 2, 3], NOTHING),
    ],
)
def test_input_of_a_database_that_went_back(
    tallies: Tallies, choice: str, effects: list[int], repeated: set[int]
) -> None:
    tallies.lose_two()

    stop(tallies, DatabaseWentBack, tallies.source, 3, 5)
    word, _, to = choice.partition(" ")
    assert tallies.run(f"positions {word} --target {tallies.source} {to} --yes") == 0
    assert tallies.decisions()[-1]["source"] == tallies.source
    # The lane is of the older database as well: what it waited to publish, nothing, was published.
    stop(tallies, DatabaseWentBack, "lane 0")
    decide(tallies, "adopt", "lane-0")

    tallies.work()
    assert tallies.effects() == effects
    assert set(tallies.numbers()) == {1, 2, 3, 4, 5}
    assert twice(tallies) == repeated
    assert tallies.handled() == (5, 0)


def test_the_runbook_of_a_restored_backup(servers: Servers) -> None:
    """The commands are those of docs/operating.md, as typed there."""
    section = (
        (ROOT / "docs" / "operating.md").read_text().split("## After a restored backup, in order")[1].split("\n## ")[0]
    )
    commands = re.findall(r"`(positions \w+ --target \w+)`", section)
    assert len(commands) == 2
    with Tallies(servers, partitions=3) as tallies:
        keys = [f"key-{n}" for n in range(9)]
        for number, key in enumerate(keys):
            tallies.ask(number, key=key)
            tallies.request(100 + number, key=key)
        tallies.work(die="unpublished", rows=2)
        restore = tallies.copy()
        tallies.work()
        for number, key in enumerate(keys):
            tallies.ask(200 + number, key=key)
        tallies.work()
        restore()
        tallies.request(300, key="key-0")

        for line in commands:
            assert tallies.run(f"{line} --yes") == 0

        tallies.work()
        consumed = {*range(9), *range(100, 109), *range(200, 209), 300}
        assert set(tallies.effects()) == consumed
        assert len(tallies.effects()) == len(consumed)
        assert set(tallies.numbers()) == consumed
        # Only what was consumed since the backup is published twice, and nothing that only waited in it.
        assert twice(tallies) >= set(range(200, 209))
        assert not twice(tallies) & set(range(100, 109))


@pytest.mark.parametrize("choice", ["adopt", "rewind", "skip"])
def test_input_without_a_row(tallies: Tallies, choice: str) -> None:
    tallies.ask(1, 2, 3)
    tallies.work()
    tallies.sql("DELETE FROM exactly_once_position")

    stop(tallies, PositionMissing, tallies.source, 3, "no position")
    decide(tallies, choice, tallies.source)

    assert tallies.handled() == (0 if choice == "rewind" else 3, 0)
    tallies.ask(4)
    tallies.work()
    # Also after `rewind`: the inbox remembers 1 to 3.
    assert tallies.effects() == [1, 2, 3, 4]
    assert tallies.numbers() == {1: 1, 2: 1, 3: 1, 4: 1}


def test_rewind_beyond_what_the_inbox_remembers(tallies: Tallies) -> None:
    tallies.ask(1, 2)
    tallies.work()
    tallies.sql("DELETE FROM exactly_once_inbox")

    assert tallies.run(f"positions rewind --target {tallies.source} --to 1 --yes") == 0

    assert tallies.handled() == (1, 0)
    tallies.work()
    assert tallies.effects() == [1, 2, 2]
    assert twice(tallies) == {2}


def test_committed_offsets_of_inputs_are_not_needed(tallies: Tallies) -> None:
    tallies.ask(1, 2)
    tallies.work()
    tallies.forget_group()
    decide(tallies, "adopt", "lane-0")

    tallies.ask(3)
    tallies.work()

    assert tallies.effects() == [1, 2, 3]
    assert tallies.numbers() == {1: 1, 2: 1, 3: 1}


def test_records_lost(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.ask(1, 2)
    tallies.work()
    tallies.ask(3, 4, 5)
    for future in tallies.admin.delete_records([TopicPartition(tallies.asked.topic, 0, 4)]).values():
        future.result(SECONDS_MAX)

    stop(tallies, RecordsLost, tallies.source, 2, 4)
    for choice in ("adopt", "rewind"):
        assert tallies.run(f"positions {choice} --target {tallies.source} --yes") == 1
    told = capsys.readouterr().err
    assert "is not in the topic" in told
    assert "are gone" in told
    decide(tallies, "skip", tallies.source)

    tallies.work()
    assert tallies.effects() == [1, 2, 5]
    assert tallies.numbers() == {1: 1, 2: 1, 5: 1}


def test_records_that_kafka_lost_after_they_were_handled(tallies: Tallies) -> None:
    tallies.ask(1, 2)
    tallies.work()
    tallies.sql("UPDATE exactly_once_position SET next_offset = 7")  # as if five more had been handled

    stop(tallies, KafkaWentBack, tallies.source, 7, 2)
    for refused in ("adopt", "skip", "rewind --to 1"):
        word, _, to = refused.partition(" ")
        assert tallies.run(f"positions {word} --target {tallies.source} {to} --yes") == 1
    decide(tallies, "rewind", tallies.source)

    assert tallies.handled() == (2, 1)
    tallies.ask(3)
    tallies.work()
    assert tallies.effects() == [1, 2, 3]
    # The offset was used before, by a record that Kafka lost: the epoch makes another id of it.
    assert dict(tallies.consumed())[3].endswith(".asked-0.1.2.Told.0")


def test_a_topic_that_grew_beyond_what_it_lost_is_no_reason_to_go_on(tallies: Tallies) -> None:
    """Records written since it was cut have offsets that were handled before: a worker would pass over them."""
    tallies.ask(1, 2)
    tallies.work()
    tallies.sql("UPDATE exactly_once_position SET next_offset = 3")
    engine = create_engine(tallies.settings.dsn(tallies.name), poolclass=NullPool)
    around = (engine, tallies.settings, tallies.service)
    (lost,) = diagnosis.diagnose(*around)
    assert isinstance(lost, KafkaWentBack)

    tallies.ask(3, 4)
    assert diagnosis.diagnose(*around) == []
    assert diagnosis.stands(lost, *around) == [lost]
    assert tallies.run(f"positions rewind --target {tallies.source} --to 2 --yes") == 0
    assert diagnosis.stands(lost, *around) == []


def test_a_skip_can_be_taken_back(tallies: Tallies) -> None:
    tallies.ask(1, 2, 3)
    assert tallies.run(f"positions skip --target {tallies.source} --to 2 --yes") == 0
    tallies.work()
    assert tallies.effects() == [3]

    assert tallies.run(f"positions rewind --target {tallies.source} --to 0 --yes") == 0
    tallies.work()

    assert tallies.effects() == [3, 1, 2]
    assert tallies.numbers() == {1: 1, 2: 1, 3: 1}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("rewind --target {source} --to 4", "rewind can go from 0 to 3"),
        ("skip --target {source} --to 2", "skip can go from 3 to 3"),
        ("skip --target lane-0 --to 2", "--to is for rewind and skip of an input"),
        ("adopt --target {source} --to 2", "--to is for rewind and skip of an input"),
        ("adopt --target {source} --to 2026-11-28T09:00Z", "--to is for rewind and skip of an input"),
        ("rewind --target lanes --to 2026-11-28T09:00Z", "--to is for rewind and skip of an input"),
        ("rewind --target inputs --to 1", "each input has offsets of its own"),
        ("adopt --target lane-7", "there is no such lane"),
        ("adopt --target other[0]", "is not an input"),
        ("adopt --target {name}.asked[9]", "is not an input"),
        ("adopt --target other", "is not a target"),
        ("skip --target {name}.asked", "can only be adopted"),
        ("rewind --target cluster", "can only be adopted"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], line: str, why: str
) -> None:
    tallies.ask(1, 2, 3)
    tallies.work()

    assert tallies.run("positions " + line.format(source=tallies.source, name=tallies.name) + " --yes") == 1

    assert why in capsys.readouterr().err
    assert tallies.decisions() == []


NINE = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)


def test_a_time_is_an_offset_of_each_partition(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    hour = timedelta(hours=1)
    with Tallies(servers, partitions=3) as tallies:
        tallies.ask_at(NINE - hour, NINE - hour / 2, NINE, NINE + hour, partition=0)
        tallies.ask_at(NINE - 2 * hour, NINE - hour, partition=1)  # nothing since
        tallies.ask_at(NINE + hour, partition=2)  # nothing before
        tallies.work()
        tallies.sql("DELETE FROM exactly_once_inbox")
        shown = NINE.isoformat().replace("+00:00", "Z")

        assert tallies.run(f"positions rewind --target inputs --to {shown} --yes") == 0

        topic, told = tallies.asked.topic, capsys.readouterr().out
        assert re.search(
            rf"\[0\]: next offset 4, .* -> next offset 2, .*\n  {shown} is offset 2. The records from 2", told
        )
        assert f"{topic}[1]: {shown} is offset 2, where it stands: nothing to rewind" in told
        assert [tallies.handled(partition)[0] for partition in range(3)] == [2, 2, 0]
        first, second = tallies.decisions()
        assert (first["source"], first["before"]["H"], first["after"]["H"]) == (f"{topic}[0]", 4, 2)
        assert (second["source"], second["before"]["H"], second["after"]["H"]) == (f"{topic}[2]", 1, 0)
        assert first["after"]["time"] == second["after"]["time"] == shown

        # Forward again, past what is to be left out: `skip` never goes back.
        later = (NINE + hour / 2).isoformat()
        assert tallies.run_words(["positions", "skip", "--target", "inputs", "--to", later, "--yes"]) == 0

        assert [tallies.handled(partition)[0] for partition in range(3)] == [3, 2, 0]
        assert "is offset 0, where it stands: nothing to skip" in capsys.readouterr().out
        before = len(tallies.effects())
        tallies.work()
        assert len(tallies.effects()) == before + 2  # the last of partition 0, the only one of 2


def test_a_time_before_the_first_record_is_the_first(tallies: Tallies) -> None:
    tallies.ask(1, 2, 3)
    tallies.work()
    for future in tallies.admin.delete_records([TopicPartition(tallies.asked.topic, 0, 1)]).values():
        future.result(SECONDS_MAX)

    assert tallies.run(f"positions rewind --target {tallies.source} --to 1969-07-20T20:17Z --yes") == 0

    assert tallies.handled() == (1, 0)


@pytest.mark.parametrize("choice", ["adopt", "rewind", "skip"])
def test_where_both_agree_there_is_nothing_to_decide(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], choice: str
) -> None:
    tallies.ask(1)
    tallies.work(die="unpublished")
    lane, waiting = tallies.lane(), tallies.waiting()

    for source in ("inputs", "lanes", *(["cluster", tallies.asked.topic] if choice == "adopt" else [])):
        assert tallies.run(f"positions {choice} --target {source} --yes") == 0

    assert capsys.readouterr().out.count("nothing to decide") == (4 if choice == "adopt" else 2)
    assert (tallies.lane(), tallies.waiting(), tallies.decisions()) == (lane, waiting, [])
