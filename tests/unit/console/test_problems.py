"""What is wrong, worst first, each with its cause, what it means, and a command that can be typed."""

import re
import shlex
from datetime import UTC, datetime

import pytest

from shared import command
from shared.calls.queue import Waiting
from shared.console import flow, problems
from shared.console.board import Mark
from shared.console.problems import Problem
from shared.console.sight import KEYS_MAX, Tables, Waits
from shared.operations.dead_letters import Alike
from shared.operations.status import Status
from shared.postgres.parked import ParkedKey
from shared.postgres.pauses import Pause
from shared.protocol.ports import Input
from tests.unit.console.desk import Desk

HOSTILE = "it's $(reboot)\x1b[2J"


def found(desk: Desk, **changed: object) -> list[Problem]:
    desk.sees("shop", **changed)
    return problems.of(desk.sight(), flow.of(desk.sight()))


def key(dead_letter: int | None = None, oldest: float = 100.0) -> ParkedKey:
    due = None if dead_letter else 1.0
    return ParkedKey(
        Input("store.events", 0), b"k", 2, 10, 5, 0, 3, due, oldest, "Retry", "the bank rests", None, dead_letter, ()
    )


WAITS = Waits(
    [Alike("store.events", "Reject", 1_234, 7_300.0), Alike(HOSTILE, "Reject", 1, 3.0)],
    [key(), key(oldest=200.0), key(dead_letter=7)],
    [{"name": "reminder", "seconds": -40.0}, {"name": "later", "seconds": 60.0}],
    [Waiting("bank", 3, 2, 10.0), Waiting("post", 5, 0, 900.0)],
    [{"failure": "KeyError: 'answer'"}],
)
STOP = (
    "store.events[0]: the database has handled up to 5, the topic begins at 9: retention or a tool removed records "
    "that were not handled. Decide with `python -m services.shop positions skip --target 'store.events[0]'`; "
    "docs/operating.md says what each does"
)


def row(source: str, **changed: object) -> dict[str, object]:
    return {"source": source, "state": "", "detail": None, "held_back": None, "waits": None, **changed}


STATUS = Status(
    [],
    [
        row("store.events[0]", state="RecordsLost", detail=STOP),
        row("store.events[1]", state="RecordsLost", detail=STOP),
        row("elsewhere.events[0]", held_back="elsewhere.events[0] has been held back at offset 5"),
        row("elsewhere.events[1]", waits="elsewhere.events[1] waits at 3: `python -m services.shop positions show`"),
    ],
    [],
    ["shop-0-0123abcd at 10.0.0.1"],
)


def test_a_service_that_is_well_has_none() -> None:
    assert found(Desk()) == []


def test_the_worst_comes_first_and_one_cause_is_told_once() -> None:
    listed = found(Desk(), status=STATUS, waits=WAITS)

    assert [(one.level, one.title) for one in listed] == [
        ("stopped", "store.events[0]: a decision is needed (RecordsLost)"),
        ("waits", "elsewhere.events[0] is held back"),
        ("waits", "elsewhere.events[1] does not move"),
        ("waits", "1,234 dead letters from store.events: Reject"),
        ("waits", "1 dead letter from it's $(reboot)\\x1b[2J: Reject"),
        ("waits", "1 key waits behind a dead letter"),
        ("waits", "2 calls to bank: the service's own code fails"),
        ("waits", "1 scheduled event late"),
        ("later", "2 keys wait to be tried again"),
        ("later", "5 calls to post not finished"),
    ]
    assert listed[0].typed == ["python -m services.shop positions skip --target 'store.events[0]'"]
    assert all(one.cause and one.means for one in listed)


def test_every_command_can_be_typed_and_none_holds_what_a_shell_or_terminal_obeys() -> None:
    typed = [line for one in found(Desk(), status=STATUS, waits=WAITS) for line in one.typed]
    assert len(typed) > 8

    for line in typed:
        assert line.isprintable()
        words = shlex.split(line)
        assert words[:3] == ["python", "-m", "services.shop"]
        command.parser("shop").parse_args(words[3:])
    assert any("it's $(reboot)\\x1b[2J" in shlex.split(line) for line in typed)


def test_without_a_worker_the_page_says_what_waits_for_one() -> None:
    listed = found(Desk(), tables=Tables({}, [], []), status=Status([], [], [], []))

    assert listed[0].title == "No worker is up"
    assert "420 records to handle" in listed[0].cause
    assert listed[0].typed == ["python -m services.shop worker"]


def test_a_paused_input_is_told_with_what_lets_it_go_on() -> None:
    pause = Pause("store.events", datetime(2026, 11, 28, 9, tzinfo=UTC), "ada", f"prices {HOSTILE}", 7, 3_600.0)
    desk = Desk()
    desk.sees("shop")
    answer = desk.sight().tables.answer
    assert answer is not None
    (only,) = found(desk, tables=answer.found._replace(paused={"store.events": pause}))

    assert (only.level, only.title) == ("waits", "store.events is paused")
    assert "paused by ada since 2026-11-28 09:00:00 UTC: prices it's" in only.cause
    assert "\x1b" not in only.cause
    assert only.typed == ["python -m services.shop inputs resume store.events"]
    shown = flow.of(desk.sight())
    assert (shown.is_paused("store.events"), shown.is_paused("elsewhere.events")) == (True, False)
    page = desk.browser.get("/").text
    assert page.count("paused by ada") == 1, "in the table of inputs"
    assert "paused, lag " in page, "in the picture"


@pytest.mark.parametrize(("look", "server"), [("tables", "PostgreSQL"), ("topics", "Kafka")])
def test_a_server_that_is_down_is_one_problem(look: str, server: str) -> None:
    desk = Desk()
    desk.sees("shop")
    getattr(desk.sight(), look).failure = "refused"

    (only,) = problems.of(desk.sight(), flow.of(desk.sight()))
    assert (only.level, only.title, only.cause) == ("stopped", f"{server} does not answer", "refused")


def test_what_could_not_be_read_is_no_good_news() -> None:
    desk = Desk()
    desk.sees("shop")
    desk.sight().waits.failure = "PostgreSQL: permission denied for table exactly_once_call"

    (only,) = problems.of(desk.sight(), flow.of(desk.sight()))
    assert only.title == "The dead letters and what else waits cannot be read"


@pytest.mark.parametrize(
    ("failure", "title", "passes"),
    [
        ('connection failed: FATAL:  database "shop" does not exist', "PostgreSQL refuses the connection", False),
        ("FATAL:  password authentication failed for user", "PostgreSQL refuses the connection", False),
        ("FATAL:  sorry, too many clients already", "PostgreSQL refuses the connection", False),
        ("FATAL:  the database system is starting up", "PostgreSQL does not answer", True),
        ("FATAL:  terminating connection due to administrator command", "PostgreSQL does not answer", True),
        ("connection timeout expired", "PostgreSQL does not answer", True),
    ],
)
def test_a_server_that_refuses_needs_somebody(failure: str, title: str, passes: bool) -> None:
    desk = Desk()
    desk.sees("shop")
    desk.sight().tables.failure = f"PostgreSQL: {failure}"

    (only,) = problems.of(desk.sight(), flow.of(desk.sight()))
    assert only.title == title
    assert ("go on with the server" in only.means) == passes
    assert ("then end" in only.means) == passes, "workers do not wait for ever"


def test_what_is_told_though_it_cannot_be_read_any_more_has_its_age() -> None:
    desk = Desk()
    desk.sees("shop", waits=WAITS)
    desk.sight().waits.failure = "PostgreSQL: canceling statement due to lock timeout"

    first = problems.of(desk.sight(), flow.of(desk.sight()))[0]
    assert "cannot be read" in first.title
    assert f"up to {problems.KNOWN_SECONDS:.0f} s old" in first.means


def test_for_one_of_several_causes_no_command_is_offered_that_redrives_all() -> None:
    several = Waits(WAITS.dead_letters, [], [], [], [])
    one = Waits(WAITS.dead_letters[:1], [], [], [], [])

    assert [[typed for typed in told.typed if "--all" in typed] for told in found(Desk(), waits=several)] == [[], []]
    assert found(Desk(), waits=one)[0].typed[-1] == "python -m services.shop dead-letters redrive --all"


@pytest.mark.parametrize(
    ("shop", "store", "shown"),
    [(0, 0, ""), (5, 0, "5"), (1_200, 34, "1,234"), (5, None, "5 + unknown"), (0, None, "unknown")],
)
def test_dead_letters_that_cannot_be_counted_are_not_none(shop: int, store: int | None, shown: str) -> None:
    desk = Desk()
    for name, number in (("shop", shop), ("store", store)):
        desk.sees(name, waits=Waits([Alike("t", "Reject", number, 3.0)] if number else [], [], [], [], []))
        if number is None:
            desk.sight(name).waits.answer = None

    counted = re.search(r'id="nav-dead-letters"[^>]*>([^<]*)<', desk.browser.get("/").text)
    assert counted is not None
    assert counted[1] == shown


def test_a_page_opens_where_something_waits() -> None:
    desk = Desk()
    paused = {"shop.events": Pause("shop.events", datetime(2026, 11, 28, tzinfo=UTC), "ada", "wrong", 4, 60.0)}
    nothing = Waits([], [], [], [], [])
    desk.sees("shop", waits=nothing, tables=Tables({}, [], []))
    desk.sees("store", waits=nothing, tables=Tables({}, [], [], paused))

    none, one = Mark(0), Mark(1)
    assert desk.board.marks() == {
        "dead-letters": {"shop": none, "store": none},
        "waiting": {"shop": none, "store": one},
    }
    assert (desk.board.first("waiting"), desk.board.first("dead-letters")) == ("store", "shop")
    assert re.search(r'id="nav-waiting"[^>]*>1<', desk.browser.get("/").text)


def test_more_keys_than_are_looked_at_are_not_called_a_number_of_them() -> None:
    desk = Desk()
    desk.sees("shop", waits=Waits([], [key()] * (KEYS_MAX + 1), [], [], []))
    desk.sees("store", waits=Waits([], [key()] * 2, [], [], []))

    assert str(desk.board.marks()["waiting"]["shop"]) == "50+"
    assert re.search(r'id="nav-waiting"[^>]*>52\+<', desk.browser.get("/").text)


def test_what_was_not_looked_at_is_not_well() -> None:
    desk = Desk()
    desk.sees("shop")
    page = desk.browser.get("/problems").text

    assert "Nothing is wrong" not in page
    assert "Not known yet, or not any more: store" in page


def test_a_page_of_problems_is_bounded() -> None:
    lots = [row(f"store.events[{n}]", detail=f"stop {n}", state="RecordsLost") for n in range(1_000)]
    listed = found(Desk(), status=Status([], lots, [], ["m"]))

    assert len(listed) == problems.SHOWN_MAX


def test_how_long_is_said_in_words_that_do_not_change_with_each_look() -> None:
    assert [problems._about(seconds) for seconds in (None, 3.0, 59.9, 130.0, 7_300.0)] == [
        "an unknown time",
        "less than a minute",
        "less than a minute",
        "2 min",
        "2 h",
    ]
