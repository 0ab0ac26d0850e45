"""The audit does not compare what it cannot know, and says so; changes while it runs do not deceive it."""

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from sqlalchemy import NullPool, create_engine

from dev.servers import Servers
from shared import command
from shared.audit import audit as audit_module
from shared.audit import claims, topics
from shared.audit.audit import BEFORE, REMOVED
from shared.operations.maintenance import Context
from shared.protocol.ports import Input
from shared.testing import SECONDS_MAX
from tests.faults.stage import Stage
from tests.integration.audits import audit, open_transaction, ours, produce
from tests.integration.operations.test_positions import CELLS, LANES, decide
from tests.integration.tallies import Tallies


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    with Tallies(servers) as made:
        yield made


def claim(tallies: Tallies, *numbers: int) -> None:
    """Publish each number in its own claim."""
    for number in numbers:
        tallies.request(number)
        tallies.work()


def delete_records(tallies: Tallies, offset: int) -> None:
    """Delete records as retention does."""
    gone = tallies.admin.delete_records([TopicPartition(tallies.told.topic, 0, offset)])
    for future in gone.values():
        future.result(SECONDS_MAX)


def lose(tallies: Tallies, event_id: str, position: int) -> None:
    """Claim an event that no worker publishes."""
    tallies.sql(
        "UPDATE exactly_once_claimed SET event_ids = event_ids || ARRAY[%s] WHERE position = %s", event_id, position
    )


def test_nothing_was_ever_published(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    answer = audit(tallies, capsys)

    assert (answer.counts, answer.facts["known_since"]) == ({}, None)
    assert tallies.run("audit") == 0
    assert "0 events in 0 claims yet" in capsys.readouterr().out


def test_records_that_retention_has_removed(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    claim(tallies, 1, 2, 3)
    delete_records(tallies, 4)

    answer = audit(tallies, capsys)

    assert (answer.counts, answer.facts["not_compared"]) == ({}, {REMOVED: 2})
    tallies.sql("UPDATE exactly_once_claimed SET claimed_at = claimed_at + interval '2 hours' WHERE position = 3")
    lose(tallies, "lost", 3)
    answer = audit(tallies, capsys)
    assert [finding[2] for finding in answer.findings] == ["lost"]


def test_retention_that_has_removed_everything(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    claim(tallies, 1, 2)
    delete_records(tallies, -1)

    answer = audit(tallies, capsys)

    assert (answer.counts, answer.facts["not_compared"], answer.facts["records"]) == ({}, {REMOVED: 2}, 0)


def test_claims_that_were_pruned(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    claim(tallies, 1, 2, 3)
    tallies.sql("DELETE FROM exactly_once_claimed WHERE position < 3")

    answer = audit(tallies, capsys)

    assert (answer.counts, answer.facts["not_compared"]) == ({}, {BEFORE: 2})
    produce(tallies, ours(tallies, "unknown"))
    assert audit(tallies, capsys).counts == {"unknown": 1}


def test_claims_of_an_older_release_in_between(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    """That release does not know the table. Gaps in the numbers reveal it, even at the end."""
    claim(tallies, 1, 2, 3)
    tallies.sql("DELETE FROM exactly_once_claimed WHERE position = 2")
    answer = audit(tallies, capsys)
    assert (answer.counts, answer.facts["not_compared"]) == ({}, {BEFORE: 1})

    lose(tallies, "lost", 1)
    tallies.sql("DELETE FROM exactly_once_claimed WHERE position = 3")
    answer = audit(tallies, capsys)
    assert [finding[2] for finding in answer.findings] == ["lost"], "what is known is compared"
    assert answer.facts["not_compared"] == {BEFORE: 2}

    tallies.sql("DELETE FROM exactly_once_claimed")
    answer = audit(tallies, capsys)
    assert (answer.counts, answer.facts["not_compared"]) == ({}, {BEFORE: 3})


def test_what_was_pruned_is_still_not_published_twice(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    claim(tallies, 1, 2)
    ((_, event_id), _) = tallies.consumed()
    tallies.sql("DELETE FROM exactly_once_claimed WHERE position = 1")
    (decided,) = [dict(r.headers())["ce_time"].decode() for r in tallies.read(tallies.told.topic)[:1]]
    produce(tallies, ours(tallies, event_id, decided))

    answer = audit(tallies, capsys)

    assert (answer.counts, [finding[2] for finding in answer.findings]) == ({"twice": 1}, [event_id])


@pytest.mark.parametrize("die", ["unpublished", "published"])
def test_a_claim_that_is_just_being_published(tallies: Tallies, capsys: pytest.CaptureFixture[str], die: str) -> None:
    claim(tallies, 1)
    tallies.request(2, 3)
    tallies.work(die=die)

    assert audit(tallies, capsys).counts == {}
    if die == "published":  # the published position proves it, so that it can be missed
        lose(tallies, "lost", 2)
        assert audit(tallies, capsys).counts == {"never": 1}


def test_a_young_transaction_is_waited_for(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends only after the audit saw it stand still."""
    claim(tallies, 1)
    with open_transaction(tallies, ours(tallies, "unknown")) as producer:
        real = topics.standing
        seen: list[int] = []

        def standing(*arguments: Any) -> dict[Input, float]:
            ages = real(*arguments)
            if not seen:
                producer.commit_transaction(SECONDS_MAX)
            seen.append(len(ages))
            return ages

        monkeypatch.setattr(topics, "standing", standing)
        answer = audit(tallies, capsys)

    assert seen[0] == 1
    assert answer.counts == {"unknown": 1}


# ---- what moves meanwhile: after each look, the system goes on before the next one


def interrupt(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, meanwhile: Callable[[], None]) -> None:
    """Let something happen once, just before a step of the audit."""
    real = getattr(module, name)
    waiting = [meanwhile]

    def step(*arguments: Any, **named: Any) -> Any:
        while waiting:
            waiting.pop()()
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, step)


STEPS = {
    "the claims are read": (claims, "read"),
    "the topics are read": (topics, "consume"),
    "it is seen what retention has left": (topics, "kept_since"),
}


@pytest.mark.parametrize("die", ["unpublished", "published", None])
@pytest.mark.parametrize("step", STEPS)
def test_workers_go_on(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, step: str, die: str | None
) -> None:
    claim(tallies, 1, 2)

    def meanwhile() -> None:
        claim(tallies, 3, 4)
        tallies.request(5)
        tallies.work(die=die)

    interrupt(monkeypatch, *STEPS[step], meanwhile)

    assert audit(tallies, capsys).counts == {}
    assert tallies.numbers().total() in (4, 5), "they did go on"


@pytest.mark.parametrize("step", STEPS)
def test_housekeeping_and_retention_go_on(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    claim(tallies, 1, 2, 3)

    def meanwhile() -> None:
        tallies.sql("DELETE FROM exactly_once_claimed WHERE position < 3")
        delete_records(tallies, 2)

    interrupt(monkeypatch, *STEPS[step], meanwhile)

    assert audit(tallies, capsys).counts == {}


@pytest.fixture
def busy(servers: Servers, tmp_path: Path) -> Iterator[Stage]:
    with Stage(servers, tmp_path) as stage:
        yield stage
        stage.show()


def test_while_workers_are_busy_and_one_is_killed(busy: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        busy.worker(batch_records=5, claim_rows=7)
    busy.until_shared(2)
    going = threading.Event()

    def feed() -> None:
        while not going.wait(0.02):
            busy.ask()

    feeding = threading.Thread(target=feed)
    feeding.start()
    engine = create_engine(busy.settings.dsn(busy.name), poolclass=NullPool)
    context = Context(busy.settings, busy.kit.service, engine, busy.outbox)

    def watch() -> None:
        """Audit again and again while forty claims are made."""
        enough = busy.one("SELECT count(*) FROM exactly_once_claimed") + 40

        def watched() -> bool:
            assert audit_module.audit(context, json=False), capsys.readouterr().out
            return busy.one("SELECT count(*) FROM exactly_once_claimed") >= enough

        busy.until(watched, "forty claims")

    try:
        watch()
        busy.workers[0].send(signal.SIGKILL)
        watch()
        busy.worker(batch_records=5, claim_rows=7)
        busy.until_shared(2)
        watch()
        going.set()
        feeding.join()
        busy.until_drained()
        busy.stop()
        capsys.readouterr()
        assert audit_module.audit(context, json=False), capsys.readouterr().out
    finally:
        going.set()
        feeding.join()
    published = len(busy.read(busy.kit.told.topic))
    printed = capsys.readouterr().out
    assert f"{published:,} of {published:,} records are this service's, " in printed
    assert f"; {published:,} events in " in printed


# ---- after a decision, the audit says what docs/operating.md says of it


@pytest.mark.parametrize(("how", "choice", "repeated", "lost"), CELLS)
def test_after_a_decision(
    tallies: Tallies,
    capsys: pytest.CaptureFixture[str],
    *,
    how: str,
    choice: str,
    repeated: set[int],
    lost: set[int],
) -> None:
    part, _, _ = LANES[how]
    claim(tallies, 1)
    part(tallies)
    before = audit(tallies, capsys)
    lost_with_the_copy = {"unknown"} if how == "database went back" else set()
    assert before.counts.keys() == {"positions"} | lost_with_the_copy

    decide(tallies, choice, "lane-0")
    decided = audit(tallies, capsys)
    claim(tallies, 99)
    after = audit(tallies, capsys)

    assert after.counts == {}
    assert after.accepted.get("twice", 0) == len(repeated), "it stays found, with the number of the decision"
    assert after.accepted.get("never", 0) == len(lost), "so does this"
    # Of two the database has one again, in its outbox; the other one is lost to it.
    assert (before.counts.get("unknown"), after.accepted.get("unknown")) == (
        (2, 1) if lost_with_the_copy else (None, None)
    )
    # After a rewind the database does not know of what it will publish again.
    assert decided.counts.keys() <= after.counts.keys() | ({"unknown"} if choice == "rewind" else set())


# ---- where it cannot look


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"kafka_bootstrap_servers": "127.0.0.1:1"}, command.EXIT_AGAIN, "KAFKA_BOOTSTRAP_SERVERS: "),
        ({"database_url": "postgresql://x@127.0.0.1:1/x"}, command.EXIT_AGAIN, "PostgreSQL"),
    ],
)
def test_a_server_is_away(
    tallies: Tallies,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    change: dict[str, str],
    code: int,
    words: str,
) -> None:
    monkeypatch.setattr("shared.kafka.topics.ADMIN_SECONDS", 1.0)
    there = tallies.settings
    tallies.settings = there.model_validate({**there.model_dump(), **change})

    assert tallies.run("audit --json") == code

    tallies.settings = there
    printed = capsys.readouterr()
    assert (printed.out, printed.err.startswith(f"{tallies.name} audit: ")) == ("", True)
    assert words in printed.err


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE exactly_once_cluster SET cluster_id = 'another'", "the positions belong to Kafka cluster another"),
        ("DROP TABLE exactly_once_claimed", "migrate` first"),
    ],
)
def test_something_has_to_be_mended_first(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], damage: str, words: str
) -> None:
    claim(tallies, 1)
    tallies.sql(damage)

    assert tallies.run("audit") == command.EXIT_MISCONFIGURED
    assert words in capsys.readouterr().err
