"""What `story` reads of a database: by an index or within a bound, and never a whole value."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, event, text

from dev.servers import Postgres, service_names
from shared.operations import story_database
from shared.operations.story_database import VALUE_MAX, Database
from shared.operations.story_facts import Place
from shared.postgres import engine as postgres_engine
from shared.settings import Settings
from shared.testing.databases import migrated

KEY, ID = "o-1", "order:019ac123-0000-7000-8000-000000000000"
SERVICE = service_names()[0]
TABLES = (
    "dead_letter",
    "parked",
    "outbox",
    "schedule",
    "inbox",
    "claimed",
    "idempotency_key",
    "call",
    "decision",
    "pause",
)


@pytest.fixture(scope="module")
def settings(postgres: Postgres) -> Iterator[Settings]:
    with migrated(postgres, SERVICE) as made:
        yield made


@pytest.fixture
def owner(settings: Settings) -> Iterator[Engine]:
    """The engine of who puts something there; what it has put is deleted."""
    made = create_engine(settings.migration_dsn(SERVICE))
    yield made
    for table in (*TABLES, "position"):
        execute(made, f"DELETE FROM exactly_once_{table}")
    execute(made, "UPDATE exactly_once_lane SET row_ids = '{}'")
    made.dispose()


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """The engine of the runtime role, as the command has it."""
    made = postgres_engine.connect(settings, SERVICE, pool_size=2)
    yield made
    made.dispose()


def execute(engine: Engine, statement: str, **values: object) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement), values)


def heads(event_id: str = ID, **more: str) -> str:
    found = {"ce_id": event_id, "ce_source": "order", "ce_type": "OrderPlaced.v1", **more}
    return json.dumps([[name, base64.b64encode(value.encode()).decode()] for name, value in found.items()])


LETTER = """
    INSERT INTO exactly_once_dead_letter (topic, partition, "offset", epoch, key, value, headers, error, detail)
    SELECT 'order.events', 2, n, 0, CAST(:key AS bytea), convert_to(repeat(md5(CAST(n AS text)), :times), 'UTF8'),
           CAST(:headers AS jsonb), 'ValueError', repeat('d', 5000)
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n
"""


def letters(engine: Engine, first: int, last: int, *, key: str = "other", times: int = 1, headers: str = "[]") -> None:
    values = {"first": first, "last": last, "key": key.encode(), "times": times, "headers": headers}
    execute(engine, LETTER, **values)


def opened(engine: Engine, *, values: bool = False) -> Database:
    made = Database(SERVICE, engine, values=values)
    made.open()
    assert made.missed == {}
    return made


def test_everything_that_a_database_has_of_a_key(owner: Engine, engine: Engine) -> None:
    lane = "SELECT (SELECT min(lane) FROM exactly_once_lane)"
    execute(owner, "INSERT INTO exactly_once_position VALUES ('order.events', 2, 9, 0)")
    execute(
        owner,
        f"""
        INSERT INTO exactly_once_outbox (lane, topic, key, event_id, event_type, event_version, data)
        {lane}, 'order.events', :key, :id, 'OrderPlaced', 1, convert_to(repeat('v', 9000), 'UTF8')
        """,
        key=KEY,
        id=ID,
    )
    execute(
        owner,
        f"""
        INSERT INTO exactly_once_schedule
            (name, due, lane, hash, topic, key, event_id, event_type, event_version, data)
        SELECT 'late', 'tomorrow', ({lane}), 1, 'order.deadlines', :key, 'order:x', 'Late', 2, 'v'
        """,
        key=KEY,
    )
    execute(
        owner,
        """
        INSERT INTO exactly_once_parked
            (topic, partition, epoch, "offset", key, source, event_id, headers, bytes, attempts, due, error, detail)
        VALUES ('order.events', 2, 0, 5, convert_to(:key, 'UTF8'), 'a', 'p-1', '[]', 1, 3, 'tomorrow', 'Retry', 'away'),
               ('order.events', 2, 0, 6, convert_to(:key, 'UTF8'), '', '', '[]', 1, 1, 'infinity', 'E', 'holds its key')
        """,
        key=KEY,
    )
    execute(
        owner,
        """
        INSERT INTO exactly_once_call
            (destination, key, call_id, call_type, call_version, data, due_at, give_up_at, failure)
        VALUES ('bank', :key, 'order:call', 'Pay', 1, '{}', 'now', 'tomorrow', '503')
        """,
        key=KEY,
    )
    letters(owner, 7, 7, key=KEY, headers=heads())

    found = opened(engine)
    found.look([KEY])
    bare = opened(engine)
    bare.look([], [ID, "order:x", "p-1", "order:call"])
    valued = opened(engine, values=True)
    valued.look([KEY])

    for known in (found.known, bare.known):
        assert [(one.event, one.claimed, one.value) for one in known.outbox.values()] == [
            ("OrderPlaced.v1", False, None)
        ]
        assert [(one.event, one.name) for one in known.schedule.values()] == [("Late.v2", "late")]
        assert [(one.place, one.attempts) for one in known.parked.values()] == [(Place("order.events", 2, 5), 3)]
        assert [(one.event, one.to, one.failure) for one in known.calls.values()] == [("Pay.v1", "bank", "503")]
        (letter,) = known.letters.values()
        assert (letter.source, letter.event_id, letter.event) == ("order", ID, "OrderPlaced.v1")
        assert len(letter.detail) == story_database.DETAIL_MAX
    assert valued.known.outbox[ID].value == "v" * VALUE_MAX
    assert found.missed == bare.missed == {}
    assert "order.events" in found.known.topics


OUTBOX = """
    INSERT INTO exactly_once_outbox (lane, topic, key, event_id, event_type, event_version, data)
    SELECT min(lane), 'order.events', :key, :id, 'OrderPlaced', 1, 'v' FROM exactly_once_lane
"""
SCHEDULE = """
    INSERT INTO exactly_once_schedule (name, due, lane, hash, topic, key, event_id, event_type, event_version, data)
    SELECT :id, 'now', min(lane), 1, 'order.deadlines', :key, :id, 'Late', 2, 'v' FROM exactly_once_lane
"""


def test_what_was_published_meanwhile_does_not_wait_any_more(owner: Engine, engine: Engine) -> None:
    for statement, event_id in ((OUTBOX, "order:gone"), (OUTBOX, "order:still"), (SCHEDULE, "order:due")):
        execute(owner, statement, key=KEY, id=event_id)
    database = opened(engine)
    database.look([KEY])
    execute(owner, "DELETE FROM exactly_once_outbox WHERE event_id = 'order:gone'")
    execute(owner, "DELETE FROM exactly_once_schedule")
    execute(owner, "UPDATE exactly_once_lane SET row_ids = ARRAY(SELECT id FROM exactly_once_outbox)")

    database.look_again({"order:gone", "order:still", "order:due", "order:else"})

    assert [(one.event_id, one.claimed) for one in database.known.outbox.values()] == [("order:still", True)]
    assert database.known.schedule == {}


def test_what_cannot_be_looked_at_again_waits_as_before(owner: Engine, engine: Engine) -> None:
    execute(owner, OUTBOX, key=KEY, id=ID)
    database = opened(engine)
    database.look([KEY])

    with owner.begin() as connection:
        connection.execute(text("LOCK TABLE exactly_once_outbox"))
        database.look_again({ID})

    assert list(database.known.outbox) == [ID]
    (note,) = database.missed
    assert "the outbox could not be looked at" in note


def test_what_was_received_set_aside_asked_claimed_and_decided(owner: Engine, engine: Engine) -> None:
    execute(owner, "INSERT INTO exactly_once_inbox (source, event_id) VALUES ('order', :id), ('order', 'z')", id=ID)
    letters(owner, 7, 8)
    low = "order:order.events-2.0.7.Low.0"
    execute(
        owner,
        """
        INSERT INTO exactly_once_claimed (lane, position, topic, events, event_ids)
        VALUES (0, 5, 'stock.events', 2, ARRAY[:low, 'order:order.events-2.0.71.Low.0'])
        """,
        low=low,
    )
    for scope, answer in (
        ("shop POST /orders", f'{{"id":"{KEY}"}}'),
        (f"shop POST /orders/{KEY}/cancel", "{}"),
        ("shop POST /orders/o-12", f'{{"id":"{KEY}2"}}'),
    ):
        execute(
            owner,
            """
            INSERT INTO exactly_once_idempotency_key (scope, key, body_hash, status, answer)
            VALUES (:scope, 'k', '', 201, convert_to(:answer, 'UTF8'))
            """,
            scope=scope,
            answer=answer,
        )
    execute(
        owner,
        """
        INSERT INTO exactly_once_decision (command, source, before, after)
        VALUES ('schedule cancel', 'late', CAST(:before AS jsonb), '{"reason": "no", "by": "ada", "value": "secret"}'),
            ('inputs resume', 'order.events', '{}', '{"by": "bob"}'), ('inputs resume', 'other', '{}', '{}')
        """,
        before=json.dumps({"key": KEY}),
    )
    execute(
        owner,
        "INSERT INTO exactly_once_pause (topic, paused_by, reason, decision) VALUES ('order.events', 'ada', 'r', 7)",
    )
    now = datetime.now(UTC)

    found = opened(engine)
    assert found.known.pauses["order.events"].startswith("decision 7 of ada at 20")
    found.receive([("order", ID), ("other", ID)], [Place("order.events", 2, 7)])
    found.follow([(now, "order:order.events-2.0.7.")], [])
    found.find_requests([now], [KEY])
    found.find_decisions([KEY], [], [("order.events", now - timedelta(hours=2), now)])

    assert list(found.known.handled) == [("order", ID)]
    assert [one.place.offset for one in found.known.letters.values()] == [7]
    assert [(one.event_id, one.position) for one in found.known.claimed.values()] == [(low, 5)]
    assert sorted(scope for scope, _ in found.known.requests) == [
        "shop POST /orders",
        f"shop POST /orders/{KEY}/cancel",
    ]
    decided = [(one.command, one.target, one.by, one.reason) for one in found.known.decisions.values()]
    assert decided == [("inputs resume", "order.events", "bob", None), ("schedule cancel", "late", "ada", "no")]
    assert found.missed == {}

    late = opened(engine)
    late.follow([(now - timedelta(hours=1), "order:order.events-2.0.7.")], [])
    assert late.known.claimed == {}


def test_of_very_many_dead_letters_no_value_is_fetched(
    owner: Engine, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters(owner, 1, 40, key=KEY, times=28_000)  # 900 kB each
    letters(owner, 41, 41, headers=heads(padding="p" * 3_000_000))
    monkeypatch.setattr(story_database, "LETTERS_MAX", 30)
    received: list[int] = []

    def note(_connection: Any, cursor: Any, *_: object) -> None:
        if cursor.pgresult is not None and cursor.pgresult.ntuples:
            result = cursor.pgresult
            cells = ((row, column) for row in range(result.ntuples) for column in range(result.nfields))
            received.append(sum(len(result.get_value(*cell) or b"") for cell in cells))

    event.listen(engine, "after_cursor_execute", note)
    found = opened(engine, values=True)
    found.look([KEY], [ID])

    assert len(found.known.letters) == 29
    assert {one.size for one in found.known.letters.values()} == {28_000 * 32}
    assert sum(received) < 40 * (VALUE_MAX * 2 + 1_000)


def test_a_statement_that_takes_too_long_hides_nothing_else(
    owner: Engine, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story_database, "STATEMENT_SECONDS", 0.2)
    execute(owner, "INSERT INTO exactly_once_inbox (source, event_id) VALUES ('order', :id)", id=ID)
    found = opened(engine)
    with owner.begin() as connection:
        connection.execute(text("LOCK TABLE exactly_once_dead_letter IN ACCESS EXCLUSIVE MODE"))
        found.receive([("order", ID)], [Place("order.events", 2, 7)])

    assert list(found.known.handled) == [("order", ID)]
    (missed,) = found.missed
    assert missed.startswith(f"{SERVICE}: dead letters could not be looked at: canceling statement due to lock timeout")
    assert missed.endswith("; another session has locked it: `doctor` tells which")


def test_a_database_that_is_slow_is_given_up_after_a_while(
    owner: Engine, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story_database, "SECONDS_MAX", 0.3)
    found = Database(SERVICE, engine)
    with owner.begin() as connection:
        connection.execute(text("LOCK TABLE exactly_once_position, exactly_once_topic IN ACCESS EXCLUSIVE MODE"))
        found.open()
    found.look([KEY])

    assert list(found.missed)[-1] == f"{SERVICE}: it was asked for 0 s, and no longer"


def test_a_database_without_the_tables_is_named(postgres: Postgres, settings: Settings) -> None:
    empty = settings.model_copy(update={"database_url": SecretStr(postgres.dsn("postgres"))})
    engine = postgres_engine.connect(empty, SERVICE, pool_size=1)
    found = Database("payment", engine)
    found.open()
    found.look([KEY])
    engine.dispose()

    assert found.answers
    assert any("exactly_once_outbox" in line and "does not exist" in line for line in found.missed)


def test_a_database_that_is_away_is_asked_once(settings: Settings) -> None:
    away = settings.model_copy(update={"database_url": SecretStr("postgresql://x:hunter2@127.0.0.1:1/x")})
    engine = postgres_engine.connect(away, SERVICE, pool_size=1)
    found = Database("payment", engine)
    found.open()
    found.look([KEY])
    engine.dispose()

    assert not found.answers
    (missed,) = found.missed
    assert missed.startswith("payment: its database could not be asked: ")
    assert "hunter2" not in missed


def test_it_cannot_write(engine: Engine) -> None:
    found = opened(engine)
    with engine.connect() as connection:
        found._ask(connection, "it", text("DELETE FROM exactly_once_inbox RETURNING 1"))

    assert list(found.missed) == [
        f"{SERVICE}: it could not be looked at: cannot execute DELETE in a read-only transaction (SQLSTATE 25006)"
    ]
