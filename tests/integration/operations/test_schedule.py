"""The commands on the schedule, its metrics, and what the audit and other commands make of it."""

import getpass
import json
import re
import shlex
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import NullPool, create_engine

from dev.servers import Servers
from shared.postgres import schedule
from shared.session import Session
from tests.dev.pages import compare
from tests.faults import trail
from tests.integration.audits import audit
from tests.integration.tallies import Tallies

WAITING = "SELECT name FROM exactly_once_schedule ORDER BY name"
LATE = "UPDATE exactly_once_schedule SET due = now() - interval '1 h' WHERE name = %s"


def put(tallies: Tallies, number: int, after: timedelta, key: str = "k") -> None:
    """Schedule an event under the name `n-<number>`."""
    with Session(tallies._engine) as session, session.begin():
        session.scheduler = partial(tallies.outbox.schedule, session)
        told = trail.step(session, tallies.kit, key, number, requested=True)
        session.schedule(told, after=after, name=f"n-{number}")
        tallies.outbox.write(session)


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    """A service with three scheduled events, of which none is due."""
    with Tallies(servers) as made:
        for number, hours in ((1, 30), (2, 10), (3, 20)):
            put(made, number, timedelta(hours=hours))
        yield made


def test_they_are_listed_in_the_order_of_their_moments(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    assert tallies.run("schedule list --limit 2") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "DUE", "IN", "TYPE", "KEY", "EVENT", "ID"]
    assert [line.split()[0] for line in lines] == ["n-2", "n-3", "..."]
    assert "10 h  Told.v1  k " in lines[0]
    tallies.sql(LATE, "n-1")
    assert tallies.run("schedule list --json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["seconds"] < 0) for one in listed] == [("n-1", True), ("n-2", False), ("n-3", False)]
    assert tallies.run("schedule show n-2") == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert json.loads(shown["data"])["number"] == 2
    assert tallies.run("schedule show nothing") == 1
    assert "nothing is scheduled as nothing" in capsys.readouterr().err


def test_one_is_cancelled_and_the_decision_stays(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    assert tallies.run("schedule cancel n-2 --reason moved") == 1
    assert "add --yes" in capsys.readouterr().err
    assert tallies.run("schedule cancel n-2 --reason moved --yes") == 0
    assert tallies.sql(WAITING) == ["n-1", "n-3"]
    (decision,) = tallies.decisions()
    assert (decision["command"], decision["source"]) == ("schedule cancel", "n-2")
    assert decision["after"] == {"reason": "moved", "cancelled": True, "by": getpass.getuser()}
    assert (decision["before"]["type"], decision["before"]["key"]) == ("Told", "k")
    assert tallies.run("schedule cancel n-2 --reason moved --yes") == 1
    tallies.work()
    assert tallies.numbers() == {}


def test_one_that_becomes_due_while_the_operator_thinks_is_left_alone(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def due_meanwhile(*_: object, **__: object) -> None:
        tallies.sql("DELETE FROM exactly_once_schedule WHERE name = 'n-2'")

    monkeypatch.setattr("shared.operations.maintenance.confirm", due_meanwhile)
    assert tallies.run("schedule cancel n-2 --reason moved") == 1
    assert "has become due, was cancelled or was replaced meanwhile" in capsys.readouterr().err
    assert tallies.decisions() == []


def test_one_is_published_now(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    assert tallies.run("schedule run-now n-1 --reason urgent --yes") == 0
    assert "is due now" in capsys.readouterr().out
    tallies.work()
    assert tallies.numbers() == {1: 1}
    assert tallies.sql(WAITING) == ["n-2", "n-3"]
    assert [d["command"] for d in tallies.decisions()] == ["schedule run-now"]


def test_the_audit_knows_what_waits_and_misses_nothing(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.request(9)
    tallies.work()
    tallies.run("schedule cancel n-2 --reason moved --yes")
    capsys.readouterr()
    answer = audit(tallies, capsys)
    assert (answer.code, answer.counts) == (0, {})
    assert (answer.facts["scheduled"], answer.facts["unpublished"]) == (2, 0)
    tallies.sql(LATE, "n-1")
    answer = audit(tallies, capsys)
    assert (answer.facts["scheduled"], answer.facts["unpublished"]) == (1, 1)
    assert answer.facts["oldest_unpublished_seconds"] >= 3_600
    tallies.work()
    answer = audit(tallies, capsys)
    assert (answer.code, answer.counts, answer.facts["unpublished"]) == (0, {}, 0)


def test_the_metrics_count_what_waits_and_how_late_it_is(tallies: Tallies) -> None:
    def gauges() -> list[float | None]:
        engine = create_engine(tallies.settings.dsn(tallies.name), poolclass=NullPool)
        with engine.connect() as connection:
            schedule.look(connection)
        names = ("exactly_once_schedule_waiting", "exactly_once_schedule_overdue_seconds")
        return [REGISTRY.get_sample_value(name) for name in names]

    assert gauges() == [3, 0]
    tallies.sql(LATE, "n-1")
    waiting, late = gauges()
    assert waiting == 3
    assert late is not None
    assert late >= 3_600


PAGE = (Path(__file__).parents[3] / "docs/schedule.md").read_text()
RENAME = "UPDATE exactly_once_schedule SET name = %s, due = now() + interval '899 s' WHERE name = 'n-2'"
NAME = "payment-overdue:0192f0c1"


def test_the_commands_of_the_page_do_what_it_shows(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (shown,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    for line in script.splitlines():
        tallies.sql("DELETE FROM exactly_once_schedule WHERE name = %s", NAME)
        tallies.sql(RENAME, NAME)
        put(tallies, 2, timedelta(hours=10))
        words = shlex.split(line.removeprefix("python -m services.order "))
        decides = words[1] in ("cancel", "run-now")
        assert tallies.run_words([*words, *(["--yes"] if decides else [])]) == 0
    compare(shown.replace("PaymentOverdue", "Told"), capsys.readouterr().out)


def test_another_number_of_lanes_moves_what_waits(tallies: Tallies) -> None:
    for number in range(10, 20):
        put(tallies, number, timedelta(hours=1), key=f"key-{number}")
    tallies.work()
    tallies.settings = tallies.settings.model_copy(update={"partitions": 5})
    assert tallies.run("lanes resize --yes") == 0
    assert tallies.sql("SELECT count(*) FROM exactly_once_schedule WHERE lane <> mod(hash, 5)") == [0]
    assert len(tallies.sql("SELECT DISTINCT lane FROM exactly_once_schedule")) > 2
