"""Answers and logs while the database is away."""

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as NoFreeConnection

from shared.http import problems
from shared.telemetry import outages
from shared.telemetry.outages import Outage


class Log:
    def __init__(self) -> None:
        self.events: list[str] = []

    def warning(self, event: str, **_facts: object) -> None:
        self.events.append(event)


def test_an_outage_is_logged_once_however_many_requests_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    log, outage = Log(), Outage("database")
    monkeypatch.setattr(outages, "log", log)
    monkeypatch.setattr(outages, "DATABASE", outage)
    for _ in range(2_828):
        problems.of_database(OperationalError("SELECT 1", {}, Exception("connection refused")), "GET")
    outage.answered("requests")

    assert log.events == ["database_unavailable", "database_available"]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("GET", "this GET may be repeated safely"),
        ("PUT", "this PUT may be repeated safely"),
        ("POST", "a POST may be repeated safely with the same Idempotency-Key"),
        ("PATCH", "try again later"),
    ],
)
def test_an_answer_speaks_of_the_request_that_was_made(method: str, words: str) -> None:
    problem = problems.of_database(NoFreeConnection(), method)

    assert problem.answer.detail == f"the database cannot do this now; {words}"
    assert problem.headers["Retry-After"]
