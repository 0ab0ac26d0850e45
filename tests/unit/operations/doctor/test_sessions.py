"""The verdicts on transactions that stay open, and on limits that come near."""

from datetime import UTC, datetime

import pytest

from shared.operations.doctor import sessions
from shared.operations.doctor.sessions import Transaction, judged, near_limits
from shared.postgres.backlog import Waiting
from shared.postgres.pauses import Pause
from tests.unit.operations.doctor.canned import case

IDLE = Transaction(7, "3/11", "ada", "psql", "idle in transaction", 600.0, ["stock"], False, 0, False)


@pytest.mark.parametrize(
    ("one", "verdict"),
    [
        (IDLE, "warning"),
        (IDLE._replace(state=None, seconds=None), "warning"),
        (IDLE._replace(waiting=2), "fault"),
        (IDLE._replace(waiting=2, waits=True), "fault"),
        (IDLE._replace(state=None, seconds=None, waits=True), None),
        (IDLE._replace(state=None, seconds=None, shuts_out=True), "fault"),
        (IDLE._replace(state="active", seconds=10.0), None),
        (IDLE._replace(state="active", seconds=4_000.0), "warning"),
        (IDLE._replace(state="active", seconds=10.0, waiting=1), "fault"),
    ],
)
def test_an_open_transaction(one: Transaction, verdict: str | None) -> None:
    found = judged(one)
    assert (None if found is None else found.verdict) == verdict


def test_it_is_named_with_what_ends_it() -> None:
    found = judged(IDLE)
    assert found is not None
    assert "server process 7 (role ada, application psql; idle in transaction)" in found.seen
    assert "10 min at least, with locks on stock" in found.seen
    assert "pg_terminate_backend(7)" in str(found.mend)
    assert "ask its owner" in str(found.mend)


def test_a_process_of_the_library_is_not_ended_lightly() -> None:
    found = judged(IDLE._replace(application="exactly-once order"))
    assert found is not None
    assert str(found.mend).startswith(
        "it is a process of the library: its log says what it does; if it is stuck, `SELECT"
    )


@pytest.mark.parametrize(
    ("most", "taken", "frozen", "verdicts"),
    [
        (100, 12, 1_000, ["ok"]),
        (100, 90, 1_000, ["warning"]),
        (100, 12, 1_500_000_000, ["ok", "warning"]),
    ],
)
def test_limits(most: int, taken: int, frozen: int, verdicts: list[str]) -> None:
    assert [one.verdict for one in near_limits(most, taken, frozen)] == verdicts


def test_only_what_was_open_in_both_looks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "LOOK_SECONDS", 0.0)
    ended, stays, began = IDLE._replace(pid=1), IDLE._replace(pid=2), IDLE._replace(pid=3)
    another = ended._replace(number="3/12")
    found = list(sessions.transactions(case([ended, stays], [another, stays, began], [])))
    assert [(one.verdict, "server process 2 " in one.seen) for one in found] == [("warning", True)]
    assert [one.verdict for one in sessions.transactions(case([], []))] == ["ok"]


def test_a_transaction_that_was_prepared_and_forgotten() -> None:
    (found,) = sessions.transactions(case([], [("a b", 7_200.0)]))
    assert (found.verdict, "transaction a b was prepared 2 h ago" in found.seen) == ("warning", True)


@pytest.mark.parametrize(
    ("rows", "seconds", "verdict"), [(0, 0.0, "ok"), (5, 1.0, "ok"), (5, 61.0, "warning"), (200, 1.0, "fault")]
)
def test_what_waits_to_be_published(monkeypatch: pytest.MonkeyPatch, rows: int, seconds: float, verdict: str) -> None:
    monkeypatch.setattr("shared.postgres.backlog.look", lambda _: Waiting(rows, seconds))
    (found,) = sessions.waiting(case(outbox_rows_max=100))
    assert found.verdict == verdict


def test_what_is_paused_is_a_warning_with_the_command_that_resumes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pause = Pause("orders", datetime(2026, 11, 28, 9, tzinfo=UTC), "ada", "wrong prices", 7, 60.0)
    monkeypatch.setattr("shared.postgres.pauses.look", lambda _: {})
    assert [one.verdict for one in sessions.paused(case())] == ["ok"]
    monkeypatch.setattr("shared.postgres.pauses.look", lambda _: {"orders": pause})
    (told,) = sessions.paused(case())
    assert told.verdict == "warning"
    assert "orders is paused by ada since 2026-11-28 09:00:00 UTC: wrong prices" in told.seen
    assert "inputs resume orders" in (told.mend or "")


@pytest.mark.parametrize(
    ("slots", "verdicts"),
    [
        ([], ["unknown"]),
        ([("standby", "reserved", 1_000)], ["unknown"]),
        ([("standby", "extended", 20 * 10**9)], ["unknown", "warning"]),
        ([("standby", "lost", 0)], ["unknown", "warning"]),
    ],
)
def test_how_much_of_the_disk_is_free_is_not_known(slots: list[object], verdicts: list[str]) -> None:
    found = list(sessions.disk(case([("1234 MB",)], slots)))
    assert [one.verdict for one in found] == verdicts
    assert "1234 MB" in found[0].seen
