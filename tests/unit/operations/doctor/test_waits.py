"""What waits for somebody is a warning, with the command that tells why."""

from typing import Any

import pytest

from shared.calls.queue import Waiting
from shared.operations.doctor import waits
from tests.unit.operations.doctor.canned import case


@pytest.mark.parametrize(
    ("ask", "answer", "verdict", "seen", "command"),
    [
        (waits.dead_letters, (0, 0), "ok", "no dead letter waits", ""),
        (
            waits.dead_letters,
            (1, 7_200),
            "warning",
            "1 dead letter to decide about, the oldest waits for 2 h",
            "dead-letters list",
        ),
        (waits.dead_letters, (10_000, 1), "warning", "10,000 dead letters or more to", "dead-letters list"),
        (waits.parked_keys, (0, 0), "ok", "no key is parked", ""),
        (waits.parked_keys, (2, 10), "ok", "2 keys to try again, the oldest waits for 10.0 s", ""),
        (waits.parked_keys, (2, 600), "warning", "2 keys to try again, the oldest waits for 10 min", "parked list"),
    ],
)
def test_what_waits_in_the_database(ask: Any, answer: tuple[int, int], verdict: str, seen: str, command: str) -> None:
    (found,) = ask(case([answer]))
    assert (found.verdict, seen in found.seen, command in (found.mend or "")) == (verdict, True, True), found


def test_calls_are_told_by_who_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Waiting("bank", 3, 1, 7_200.0), Waiting("post", 1, 0, 10.0)]
    monkeypatch.setattr("shared.calls.queue.waiting", lambda _: found)
    stuck, waiting = waits.stuck_calls(case())
    assert stuck.verdict == "warning"
    assert "3 calls to bank, the oldest waits for 2 h; of 1 the service's own code fails" in stuck.seen
    assert "calls list --stuck" in (stuck.mend or "")
    assert (waiting.verdict, waiting.seen) == ("ok", "1 call to post, the oldest waits for 10.0 s; none is stuck")

    found.clear()
    assert [one.seen for one in waits.stuck_calls(case())] == ["no call waits"]
