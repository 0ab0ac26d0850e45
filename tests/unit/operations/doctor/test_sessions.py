"""The verdicts on transactions that stay open, and on limits that come near."""

import pytest

from shared.operations.doctor.sessions import Transaction, judged, near_limits

IDLE = Transaction(7, "3/11", "ada", "psql", "idle in transaction", 600.0, ["stock"], False, 0)


@pytest.mark.parametrize(
    ("one", "verdict"),
    [
        (IDLE, "warning"),
        (IDLE._replace(state=None, seconds=None), "warning"),
        (IDLE._replace(waiting=2), "fault"),
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
    assert "it is a process of the library" in str(found.mend)


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
