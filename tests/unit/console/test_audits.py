"""The audit on the page: never run is not well, one runs at a time, and what it found stays with its time."""

import threading
from datetime import UTC, datetime

from shared.audit.report import Finding, Report
from shared.console import problems
from shared.console.audits import Audits
from shared.console.estate import Known
from shared.errors import CommandFailed
from shared.testing import SECONDS_MAX
from tests.unit.console.desk import Desk

AT = datetime(2026, 11, 30, 9, 41, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\x1b[2J"


def report(*findings: Finding) -> Report:
    made = Report("shop", AT, records=2_000, ours=1_500, events=1_234, claims=7, seconds=3.0)
    for finding in findings:
        made.add(finding)
    return made


class Run:
    """Runs that end when the test lets them."""

    def __init__(self, *answers: Report | Exception) -> None:
        self.answers = list(answers)
        self.began, self.goes_on = threading.Event(), threading.Event()
        self.count = 0

    def __call__(self, _known: Known) -> Report:
        self.count += 1
        self.began.set()
        assert self.goes_on.wait(SECONDS_MAX)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def at_desk(*answers: Report | Exception) -> tuple[Desk, Run]:
    desk = Desk(scopes=("console:read",))
    desk.log_in()
    for name in ("shop", "store"):
        desk.sees(name)
    run = Run(*answers)
    desk.board.audits = Audits(desk.board.known, run)
    return desk, run


def csrf(desk: Desk) -> str:
    return desk.browser.get("/problems").text.partition('name="csrf" value="')[2].partition('"')[0]


def ask(desk: Desk) -> str:
    answer = desk.browser.post("/audit/shop", data={"csrf": csrf(desk)})
    assert answer.status_code == 200
    return answer.text


def audited(desk: Desk) -> str:
    desk.board.audits.wait(SECONDS_MAX)
    return desk.browser.get("/problems").text


def test_nobody_has_asked_and_it_is_not_called_well() -> None:
    desk, run = at_desk()
    page = desk.browser.get("/problems").text

    assert page.count("never run since this console was started") == 2
    assert "nothing is wrong, as of" not in page
    assert run.count == 0


def test_who_may_look_may_ask_and_one_runs_at_a_time() -> None:
    desk, run = at_desk(report())
    assert "runs since" in ask(desk)
    assert run.began.wait(SECONDS_MAX)
    assert "runs since" in ask(desk)
    run.goes_on.set()
    page = audited(desk)

    assert run.count == 1
    assert "nothing is wrong, as of 2026-11-30 09:41:00 UTC" in page
    assert "1,500 records of shop compared with 1,234 events in 7 claims" in page
    assert page.count("never run since") == 1


def test_what_it_finds_is_a_problem_and_the_worst_comes_first() -> None:
    findings = [
        Finding("twice", "it is also at shop.events[0]@4", where="shop.events[0]@9", event_id=HOSTILE),
        *(Finding("never", f"claimed at {n}", where="shop.events") for n in range(30)),
    ]
    desk, run = at_desk(report(*findings))
    run.goes_on.set()
    ask(desk)
    page = audited(desk)

    (never, twice) = problems.of_audit(desk.board.known["shop"], desk.board.audits.of("shop"))
    assert never.title == "The audit has found events never published: 30"
    assert "As of 2026-11-30 09:41:00 UTC; the first: shop.events  claimed at 0" in never.cause
    assert twice.title == "The audit has found events published twice: 1"
    assert never.typed == ["python -m services.shop audit"]
    assert page.index("events never published: 30</h4>") < page.index("events published twice: 1</h4>")
    assert page.count("<code>shop.events  claimed at") == 5
    assert "<script>alert" not in page
    assert "\x1b" not in page


def test_one_that_fails_says_why_and_what_was_found_before_stays() -> None:
    finding = Finding("never", "claimed", where="shop.events")
    desk, run = at_desk(report(finding), CommandFailed("shop has more than 1,000,000 records: run `audit`"), OSError())
    run.goes_on.set()
    ask(desk)
    audited(desk)
    ask(desk)
    page = audited(desk)

    assert "not done at 20" in page
    assert "shop has more than 1,000,000 records: run audit" in page
    assert "The audit has found events never published: 1" in page
    ask(desk)
    assert "OSError" in audited(desk)


def test_a_form_of_another_site_starts_nothing() -> None:
    desk, run = at_desk()
    assert desk.browser.post("/audit/shop", data={"csrf": "guessed"}).status_code == 403
    assert desk.browser.post("/audit/nowhere", data={"csrf": csrf(desk)}).status_code == 404
    assert desk.browser.get("/audit/shop").status_code == 405
    stranger = Desk(scopes=("console:read",))
    assert stranger.browser.post("/audit/shop").status_code == 401
    assert run.count == 0
