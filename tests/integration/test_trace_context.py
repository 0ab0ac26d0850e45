"""What a caller has said beside its trace is in the headers of all that follows, however long that waited."""

import json
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import NullPool, create_engine

from dev.servers import Servers
from shared.session import Session
from shared.trace_context import TraceContext
from tests.faults import trail
from tests.integration.tallies import Tallies

CONTEXT = TraceContext(
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "rojo=1,ot=th:c", "tenant=eu-7,experiment=b"
)


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    with Tallies(servers) as made:
        yield made


def ask(tallies: Tallies, number: int, wish: str = "", key: str = "k") -> None:
    """Ask with the context of a caller."""
    value = json.dumps({"trail": key, "number": number, "wish": wish}).encode()
    told = {"ce_specversion": "1.0", "ce_source": "test", "ce_id": f"asked-{number}", "ce_type": "Asked.v1"}
    tallies.produce(value, key.encode(), [*told.items(), *CONTEXT.headers()])


def request(tallies: Tallies, number: int, *, scheduled: bool = False) -> None:
    """Publish as a request does whose caller gave its context."""
    context = CONTEXT.text
    with Session(create_engine(tallies.settings.dsn(tallies.name), poolclass=NullPool)) as session, session.begin():
        told = trail.step(session, tallies.kit, "k", number, requested=True)
        if scheduled:
            session.scheduler = partial(tallies.outbox.schedule, session, traceparent=context)
            session.schedule(told, after=timedelta(hours=1), name="later")
        else:
            tallies.outbox.add(session, told, context)
        tallies.outbox.write(session)


def contexts(tallies: Tallies, topic: str | None = None) -> list[TraceContext]:
    """Return what the next service gets with each record."""
    headers = [dict(record.headers()) for record in tallies.read(topic or tallies.told.topic)]
    return [TraceContext(*(found.get(name, b"").decode() for name in TraceContext._fields)) for found in headers]


def test_a_request_what_it_schedules_and_what_follows_from_them(tallies: Tallies) -> None:
    request(tallies, 1)
    request(tallies, 2, scheduled=True)
    ask(tallies, 3)
    tallies.work()
    assert contexts(tallies) == [CONTEXT] * 2

    tallies.sql("UPDATE exactly_once_schedule SET due = clock_timestamp()")
    tallies.work()
    assert contexts(tallies) == [CONTEXT] * 3
    assert sorted(tallies.numbers()) == [1, 2, 3]


def test_a_dead_letter_that_is_redriven_and_a_key_that_has_waited(tallies: Tallies) -> None:
    tallies.sql("INSERT INTO switch VALUES ('reject'), ('retry')")
    ask(tallies, 1, "while reject")
    ask(tallies, 2, "while retry", "other")
    tallies.work(parks=1)
    assert contexts(tallies, tallies.service.dead_letter_topic) == [CONTEXT]
    assert contexts(tallies) == []

    tallies.sql("DELETE FROM switch")
    assert tallies.run("dead-letters redrive 1") == 0
    assert tallies.run(f"parked retry-now --target {tallies.source} --key other") == 0
    tallies.work(parks=1)
    assert contexts(tallies) == [CONTEXT] * 2
    assert sorted(tallies.numbers()) == [1, 2]


def test_a_row_that_an_operator_has_set_aside(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    request(tallies, 1)
    (event_id,) = tallies.sql("SELECT event_id FROM exactly_once_outbox")
    assert tallies.run(f"outbox show {event_id} --json") == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert CONTEXT._asdict().items() <= shown.items()

    assert tallies.run(f"outbox set-aside {event_id} --yes") == 0
    assert tallies.run("dead-letters redrive 1") == 0
    tallies.work()
    assert contexts(tallies) == [CONTEXT]
