"""A recurring event has one run that waits, and each run is published once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest
import structlog
from sqlalchemy import Engine

from shared.errors import Misconfigured
from shared.postgres import outbox, recurring, schedule
from shared.postgres.recurring import Recurring, Run
from shared.service import Service
from tests.faults import trail
from tests.faults.stage import Stage

RUNS = "SELECT name, due, cron, event_id FROM exactly_once_schedule WHERE cron IS NOT NULL"
LANES = {0: 100, 1: 100}


def service(stage: Stage, cron: str = "*/5 * * * *") -> Service:
    """Declare a recurring event for the stage's service."""
    made = Service(stage.name, publishes=(stage.kit.told,))

    def tick(run: datetime) -> trail.Told:
        return stage.kit.told(trail="tick", step=0, number=0, padding=run.isoformat())

    tick.__annotations__["return"] = stage.kit.told
    made.recurring("tick", cron=cron, timezone="Europe/Berlin")(tick)
    return made


@contextmanager
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[structlog.typing.EventDict]]:
    lines = structlog.testing.LogCapture()
    monkeypatch.setattr(recurring, "log", structlog.wrap_logger(None, [lines]))
    yield lines.entries


def move(engine: Engine, made: Recurring) -> list[Run]:
    """Do what a claim does."""
    with engine.begin() as connection:
        runs = [Run._make(row) for row in connection.execute(*schedule.moving(LANES, made.names))]
        made.follow(connection, runs)
    return runs


def late(stage: Stage, by: str) -> None:
    """Let the run that waits be overdue."""
    stage.connection.execute(f"UPDATE exactly_once_schedule SET due = due - interval '{by}'".encode())


def test_a_start_schedules_the_next_run_once_however_many_start(stage: Stage, engine: Engine) -> None:
    made = Recurring(service(stage))
    starting = [threading.Thread(target=made.ensure, args=(engine,)) for _ in range(4)]
    for one in starting:
        one.start()
    for one in starting:
        one.join()
    ((name, due, cron, event_id),) = stage.connection.execute(RUNS).fetchall()
    assert (name, cron) == ("recurring:tick", "*/5 * * * * Europe/Berlin")
    assert due.minute % 5 == 0
    assert event_id.startswith(f"{stage.name}:recurring:tick.2")


def test_another_rule_takes_the_place_of_the_one_before(stage: Stage, engine: Engine) -> None:
    Recurring(service(stage)).ensure(engine)
    Recurring(service(stage, "0 3 1 1 *")).ensure(engine)
    ((_, due, cron, _),) = stage.connection.execute(RUNS).fetchall()
    assert cron == "0 3 1 1 * Europe/Berlin"
    assert (due.month, due.day) == (1, 1)


def test_a_run_that_becomes_due_is_published_and_its_successor_waits(stage: Stage, engine: Engine) -> None:
    made = Recurring(service(stage))
    made.ensure(engine)
    assert move(engine, made) == []
    late(stage, "5 min")
    (first,) = move(engine, made)
    assert first.name == "recurring:tick"
    assert move(engine, made) == []
    assert stage.one("SELECT count(*) FROM exactly_once_outbox") == 1
    ((_, due, _, _),) = stage.connection.execute(RUNS).fetchall()
    assert due > first.now


def test_of_runs_that_were_missed_one_is_caught_up_and_the_log_says_so(
    stage: Stage, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Recurring(service(stage))
    made.ensure(engine)
    late(stage, "1 h")
    with logged(monkeypatch) as lines:
        move(engine, made)
        move(engine, made)
    assert stage.one("SELECT count(*) FROM exactly_once_outbox") == 1
    (line,) = lines
    assert (line["event"], line["name"]) == ("recurring_missed", "tick")
    assert line["left_out"] in (10, 11, 12)


def test_a_worker_leaves_runs_that_it_does_not_know(stage: Stage, engine: Engine) -> None:
    """The previous version, during a rollout: it would schedule no successor."""
    Recurring(service(stage)).ensure(engine)
    late(stage, "1 h")
    assert move(engine, Recurring(stage.kit.service)) == []
    with engine.connect() as connection:
        assert outbox.unpublished(connection, (0, 1)) == (False, None)
        found = outbox.unpublished(connection, (0, 1), ["recurring:tick"])
    assert found.due_seconds is not None
    assert found.due_seconds < 0


def test_a_run_whose_event_cannot_be_made_is_left_out(
    stage: Stage, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = service(stage)
    made = Recurring(one)
    made.ensure(engine)
    (declared,) = one.recurrences
    calls: list[datetime] = []

    def fails_once(run: datetime) -> trail.Told:
        calls.append(run)
        if len(calls) == 1:
            raise ZeroDivisionError("on this day")
        return stage.kit.told(trail="tick", step=0, number=0)

    object.__setattr__(declared, "event", fails_once)
    late(stage, "5 min")
    with logged(monkeypatch) as lines:
        move(engine, made)
    assert [line["event"] for line in lines] == ["recurring_failed"]
    ((_, due, _, _),) = stage.connection.execute(RUNS).fetchall()
    assert due == calls[1] > calls[0]

    object.__setattr__(declared, "event", lambda _run: 1 / 0)
    stage.connection.execute("DELETE FROM exactly_once_schedule")
    with pytest.raises(Misconfigured, match="recurring 'tick': ZeroDivisionError"):
        made.ensure(engine)
