"""What may recur, and when its runs are."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from shared import Event, Service
from shared.recurring import Recurrence, declared


class ReportDue(Event, topic="reports", key="day"):
    day: str


def nightly(run: datetime) -> ReportDue:
    return ReportDue(day=run.date().isoformat())


def made(cron: str, timezone: str = "Europe/Berlin") -> Recurrence:
    return declared("nightly", cron, timezone, nightly)


def test_a_declaration_makes_the_event_of_each_run() -> None:
    service = Service("reports", publishes=(ReportDue,))
    service.recurring("nightly", cron="0 3 * * *", timezone="Europe/Berlin")(nightly)
    (one,) = service.recurrences
    assert (one.key, one.rule) == ("recurring:nightly", "0 3 * * * Europe/Berlin")
    run = one.after(datetime(2026, 12, 31, 2, 0, tzinfo=UTC))
    assert run.isoformat() == "2027-01-01T03:00:00+01:00"
    assert one.event(run) == ReportDue(day="2027-01-01")
    assert service.renamed("other").recurrences == service.recurrences


@pytest.mark.parametrize(
    ("after", "runs"),
    [
        # In the night in which 2:30 is missing, it runs when it would have been; in the one that has it twice, once.
        (datetime(2026, 3, 28, 12, tzinfo=UTC), ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]),
        (datetime(2026, 10, 24, 12, tzinfo=UTC), ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]),
    ],
)
def test_clocks_that_change_lose_and_repeat_no_run(after: datetime, runs: list[str]) -> None:
    one, found = made("30 2 * * *"), []
    for _ in runs:
        after = one.after(after)
        found.append(after.isoformat())
    assert found == runs


def test_missed_runs_are_those_between() -> None:
    one = made("0 3 * * *", "UTC")
    due = datetime(2026, 1, 1, 3, tzinfo=UTC)
    assert one.missed(due, datetime(2026, 1, 1, 3, 0, 1, tzinfo=UTC)) == 0
    assert one.missed(due, datetime(2026, 1, 4, 3, tzinfo=UTC)) == 3


@pytest.mark.parametrize(
    ("cron", "timezone", "error"),
    [
        ("0 0 * 2 MON#5", "UTC", "never fires within ten years"),
        ("0 3 31 2 *", "UTC", "is no cron expression"),
        ("0 3 * *", "UTC", "is no cron expression"),
        ("61 * * * *", "UTC", "is no cron expression"),
        ("", "UTC", "is no cron expression"),
        (None, "UTC", "is no cron expression"),
        ("0 3 * * *", "Europe/Nowhere", "there is no time zone"),
        ("0 3 * * *", "", "there is no time zone"),
        ("0 3 * * *", "../etc/passwd", "there is no time zone"),
    ],
)
def test_what_never_fires_is_refused_where_it_is_declared(cron: Any, timezone: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        made(cron, timezone)


def unknown(_run: datetime) -> Event:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("function", "error"),
    [(unknown, "which event it makes, one of `publishes`"), (lambda run: None, "by its return type")],
)
def test_a_function_says_which_event_it_makes(function: Callable[[datetime], Any], error: str) -> None:
    service = Service("reports", publishes=(ReportDue,))
    with pytest.raises(TypeError, match=error):
        service.recurring("nightly", cron="0 3 * * *")(function)


def test_a_name_is_declared_once() -> None:
    service = Service("reports", publishes=(ReportDue,))
    service.recurring("nightly", cron="0 3 * * *")(nightly)
    with pytest.raises(ValueError, match="declared twice"):
        service.recurring("nightly", cron="0 4 * * *")(nightly)
