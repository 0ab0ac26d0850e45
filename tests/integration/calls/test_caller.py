"""Caller processes ask a bank that fails in every way, and every bill is paid once."""

import os
import signal
import urllib.request
import zlib
from contextlib import suppress
from pathlib import Path

import psycopg

from dev.servers.places import HOST, free_port
from shared.calls.outbox import CHANNEL
from shared.testing import until
from tests.alerts import PROMTOOL, firing
from tests.integration.calls.paying import TRACE, PayOnce, PaySoon, Stage

WITHOUT_WORKERS = ("MetricsAbsent", "NoWorkerWorks")
"""There are callers alone."""

WRONG = ("cut before", "cut after", "500", "409", None, "503", "cut after")


def test_every_bill_is_paid_once_however_the_bank_fails(paying: Stage) -> None:
    paying.bank.wrong = lambda asked, n: WRONG[(zlib.crc32(asked.key.encode()) + n) % len(WRONG)] if n < 4 else None
    bills = [f"b-{n}" for n in range(16)]
    for n in range(0, 16, 8):
        paying.due(*bills[n : n + 8], parts=(1, 2, 3))
    callers = [paying.caller() for _ in range(2)]
    paying.until_finished()

    paid = [(event["bill"], event["part"]) for event in paying.events() if event["type"] == "Paid"]
    assert sorted(paid) == sorted((bill, part) for bill in bills for part in (1, 2, 3))
    for bill in bills:
        assert [part for of, part in paid if of == bill] == [1, 2, 3]
    assert len(paying.bank.booked) == 48
    receipts = {event["receipt"] for event in paying.events()}
    assert receipts == set(paying.bank.booked.values())
    assert {asked.trace for asked in paying.bank.asked} == {TRACE}
    # One after the other: no part was asked for before the one before it was booked.
    first: dict[tuple[str, int], int] = {}
    last: dict[tuple[str, int], int] = {}
    for at, asked in enumerate(paying.bank.asked):
        first.setdefault((asked.bill, asked.part), at)
        last[asked.bill, asked.part] = at
    assert all(last[bill, part] < first[bill, part + 1] for bill in bills for part in (1, 2))

    for process in callers:
        process.terminate()
    for process in callers:
        process.join(60)
        assert process.exitcode == 0


def test_a_call_wakes_a_caller_that_looks_for_none(paying: Stage) -> None:
    paying.caller("sleep")
    for n in range(5):  # the first may be found by the look with which a caller begins
        paying.due(f"b-{n}")
        paying.until_finished()
    assert len(paying.bank.booked) == 5


def test_calls_that_wait_for_their_key_delay_no_other(paying: Stage) -> None:
    """All of one key but the first are put off before another key's turn comes: without a pause between the looks."""
    paying.bank.gate.clear()
    paying.due("b-1", parts=tuple(range(40)))
    paying.due("b-2")
    paying.caller("sleep")
    until(lambda: {asked.bill for asked in paying.bank.asked} == {"b-1", "b-2"}, "both are asked for")
    paying.bank.gate.set()


def test_only_the_first_call_that_is_due_tells_the_callers(paying: Stage) -> None:
    with psycopg.connect(paying.connection.info.dsn, password=paying.connection.info.password) as listening:
        listening.autocommit = True
        listening.execute(f"LISTEN {CHANNEL}".encode())

        def heard() -> list[str]:
            listening.execute("SELECT")  # what was committed before comes before the answer
            return [notification.payload for notification in listening.notifies(timeout=0)]

        paying.due("b-1", "b-2")
        assert heard() == ["bank"]
        paying.due("b-3")
        assert heard() == []
        paying.connection.execute("UPDATE exactly_once_call SET due_at = due_at + interval '1 minute'")
        paying.due("b-4")
        assert heard() == ["bank"]


def test_callers_together_keep_the_concurrency(paying: Stage) -> None:
    paying.bank.gate.clear()
    paying.due(*(f"b-{n}" for n in range(30)))
    for _ in range(2):
        paying.caller()
    until(lambda: paying.bank.under_way == 8, "the bank is asked as often as it may be")
    paying.bank.gate.set()
    paying.until_finished()
    assert paying.bank.most_under_way == 8


def test_one_that_is_asked_to_stop_finishes_what_is_under_way(paying: Stage) -> None:
    paying.bank.gate.clear()
    paying.due(*(f"b-{n}" for n in range(20)))
    process = paying.caller()
    until(lambda: paying.bank.under_way == 8, "the bank is asked")
    process.terminate()
    paying.bank.gate.set()
    process.join(60)
    assert process.exitcode == 0
    assert len(paying.events()) == 8
    assert paying.rows("SELECT count(*) FROM exactly_once_call WHERE claimed_by IS NULL AND attempts = 0") == [(12,)]


def test_a_bank_that_is_down_is_left_alone_until_it_is_back(paying: Stage) -> None:
    down = [True]
    paying.bank.wrong = lambda _asked, _n: "503" if down[0] else None
    paying.due(*(f"b-{n}" for n in range(5)))
    paying.caller()
    until(lambda: "breaker_opened" in paying.log(0), "the breaker opens")
    down.clear()
    down.append(False)
    paying.until_finished()
    until(lambda: "breaker_closed" in paying.log(0), "the breaker closes")
    assert len(paying.bank.booked) == 5


def test_while_a_bank_is_left_alone_calls_are_given_up_at_their_deadline(paying: Stage) -> None:
    paying.bank.wrong = lambda _asked, _n: "503"
    paying.due(*(f"b-{n}" for n in range(5)))
    paying.due("late", kind=PaySoon)
    paying.caller()
    until(lambda: [event["why"] for event in paying.events()] == ["deadline"], "the late one is given up")
    assert paying.rows("SELECT state FROM bill WHERE id = 'late'") == [("GIVEN_UP",)]


def test_after_its_attempts_a_call_is_given_up_and_the_next_of_its_key_goes_on(paying: Stage) -> None:
    paying.bank.wrong = lambda asked, _n: "cut before" if asked.part == 0 else None
    paying.due("b-1", kind=PayOnce)
    paying.due("b-1", parts=(1,))
    paying.caller()
    paying.until_finished()
    assert [(event["type"], event["part"]) for event in paying.events()] == [("Unpaid", 0), ("Paid", 1)]
    assert paying.events()[0]["maybe_done"] is True


def test_a_caller_outlives_a_lost_database(paying: Stage) -> None:
    paying.bank.gate.clear()
    paying.due("b-1", "b-2")
    process = paying.caller()
    until(lambda: paying.bank.under_way == 2, "the bank is asked")
    paying.connection.execute("""
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'exactly-once %'
    """)
    paying.bank.gate.set()
    paying.until_finished()
    assert len(paying.bank.booked) == 2
    assert len(paying.events()) == 2
    assert process.is_alive()


def test_health_and_metrics_show_what_waits(paying: Stage) -> None:
    port = free_port()
    paying.settings = paying.settings.model_copy(update={"http_host": HOST, "metrics_port": port})

    def get(path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    paying.bank.gate.clear()
    paying.due("b-1", "b-2")
    paying.caller()
    until(lambda: "bank: 2 under way" in get("/health/ready"), "it is ready")
    until(lambda: 'exactly_once_calls_waiting{destination="bank"} 2.0' in get("/metrics"), "it shows what waits")
    assert 'exactly_once_calls_under_way{destination="bank"} 2.0' in get("/metrics")
    assert 'exactly_once_call_breaker_open{destination="bank"} 0.0' in get("/metrics")
    paying.bank.gate.set()
    done = 'exactly_once_calls_attempted_total{destination="bank",outcome="done"} 2.0'
    until(lambda: done in get("/metrics"), "it counts what was done")


def test_a_call_at_which_the_services_own_code_fails_is_an_alarm(paying: Stage, tmp_path: Path) -> None:
    port = free_port()
    paying.settings = paying.settings.model_copy(update={"http_host": HOST, "metrics_port": port})
    paying.bank.wrong = lambda _asked, _n: "200"  # and no receipt
    paying.due("b-1")
    paying.caller()

    def page() -> str:
        with suppress(OSError), urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
        return ""

    until(lambda: 'exactly_once_calls_stuck{destination="bank"} 1.0' in page(), "it is stuck")
    if PROMTOOL:
        assert firing(page(), tmp_path) == {"CallsStuck", *WITHOUT_WORKERS}


def test_one_that_stood_still_changes_nothing_when_it_wakes(paying: Stage) -> None:
    paying.due("b-1")
    frozen = paying.caller("ask", after=True, deed=signal.SIGSTOP)
    until(lambda: paying.bank.booked, "the bank has booked")
    paying.caller()
    paying.until_finished()
    os.kill(frozen.pid, signal.SIGCONT)
    until(lambda: "call_overtaken" in paying.log(0), "it notices that another has taken over")
    assert len(paying.events()) == 1
    assert paying.rows("SELECT state, changes FROM bill") == [("PAID", 1)]
    assert len({asked.key for asked in paying.bank.asked}) == 1
    assert len(paying.bank.booked) == 1


def test_one_whose_threads_all_hang_ends_to_be_restarted(paying: Stage) -> None:
    paying.due(*(f"b-{n}" for n in range(8)))
    process = paying.caller("hang")
    until(lambda: not process.is_alive(), "it ends")
    assert process.exitcode == 75
    assert "work in the database does not end" in paying.log(0)
    paying.connection.execute("UPDATE exactly_once_call SET due_at = clock_timestamp()")
    paying.caller()
    paying.until_finished()
    assert len(paying.bank.booked) == 8
