"""What nobody wishes for: very many dead letters of nearly a megabyte, a database that holds everything up, an id that
is nowhere. What is fetched is counted, for a page costs that, however fast the machine.
"""

import html
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from tests.integration.console.office import Office
from tests.integration.tallies import Tallies
from tests.integration.tally_topics import headers

NUMBER = 10_000
STATEMENTS_MAX = 8
FETCHED_MAX = 400_000
"""Bytes of a page's rows: of each part of the one letter that is shown, the first 100,000."""


class Meter:
    """Counts what the server has sent."""

    def __init__(self) -> None:
        self.statements, self.fetched = 0, 0

    def note(self, _connection: Any, cursor: Any, *_: Any) -> None:
        if threading.current_thread().name.startswith("console: "):
            return  # a look, which comes by itself
        self.statements += 1
        result = cursor.pgresult
        if result is not None:
            self.fetched += sum(
                len(result.get_value(row, column) or b"")
                for row in range(result.ntuples)
                for column in range(result.nfields)
            )


@contextmanager
def metered(*engines: Engine) -> Iterator[Meter]:
    meter = Meter()
    for engine in engines:
        event.listen(engine, "after_cursor_execute", meter.note)
    try:
        yield meter
    finally:
        for engine in engines:
            event.remove(engine, "after_cursor_execute", meter.note)


@pytest.fixture
def buried(tallies: Tallies) -> Tallies:
    """Ten thousand dead letters of 900 kB, which compress well; every tenth has another error."""
    value = json.dumps({"trail": "k", "number": 1, "wish": "reject", "padding": "x" * 899_900})
    tallies.produce(value.encode(), event_headers=headers("large"))
    tallies.work()
    tallies.sql(
        'INSERT INTO exactly_once_dead_letter (topic, partition, "offset", epoch, key, value, headers, error, detail) '
        "SELECT topic, partition, n, epoch, key, value, headers, "
        "CASE mod(n, 10) WHEN 0 THEN 'Odd' ELSE error END, detail "
        f"FROM exactly_once_dead_letter, generate_series(1, {NUMBER - 1}) AS n"
    )
    (total,) = tallies.sql("SELECT sum(octet_length(value)) FROM exactly_once_dead_letter")
    assert total > 8_900_000_000
    return tallies


def test_ten_thousand_dead_letters_cost_a_page_no_more_than_fifty(
    buried: Tallies, office: Office, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = f"/dead-letters/{office.name}/{NUMBER // 2}"
    known = office.board.known[office.name]
    for place, told in (
        ("/dead-letters", "9,001<"),
        ("/dead-letters?error=Odd", "Odd"),
        (f"/dead-letters?after={NUMBER - 20}", "First page"),
        ("/dead-letters?state=redriven", "None was redriven"),
        (letter, "Only the first 100,000 bytes"),
        (f"{letter}/edit", "a page edits up to 100,000"),
        ("/decisions", "Nobody has decided"),
    ):
        with metered(known.reading.engine) as meter:
            answer = office.browser.get(place)
        assert answer.status_code == 200, answer.text
        assert told in answer.text, place
        assert len(answer.content) < FETCHED_MAX, place
        assert 0 < meter.statements <= STATEMENTS_MAX, place
        assert meter.fetched < FETCHED_MAX, place

    sight = office.board.sights[office.name]
    for look in (sight.waits, sight.tables):
        with metered(known.reading.engine, known.watching) as meter:
            look._ask()
        assert 0 < meter.statements <= 2 * STATEMENTS_MAX
        assert meter.fetched < 20_000
    page = office.until_problem("9,001 dead letters from")
    assert "999 dead letters from" in page
    assert "10,000" in office.browser.get("/").text

    capsys.readouterr()
    assert buried.run(f"dead-letters list --limit {NUMBER}") == 0
    assert capsys.readouterr().out.count("\n") == NUMBER + 1


def test_all_that_match_are_dismissed_and_the_page_says_how_many(buried: Tallies, office: Office) -> None:
    known = office.board.known[office.name]
    with metered(known.acting.engine) as meter:
        answer = office.act("dismiss-all", error="Odd", reason="made up")
    assert office.said(answer) == ["999 dead letters dismissed by decision 1"]
    assert meter.fetched < FETCHED_MAX

    with metered(known.acting.engine) as meter:
        answer = office.act("redrive", id=2)
    assert "2: failed: Reject" in office.said(answer)[0]
    assert 900_000 < meter.fetched < 2_000_000, "one value, once"


def test_an_act_at_a_database_that_holds_everything_up_says_so_and_nothing_is_lost(
    tallies: Tallies, office: Office
) -> None:
    tallies.ask(1, wish="defect")
    tallies.sql("INSERT INTO switch VALUES ('defect')")
    tallies.work()
    tallies.sql("DELETE FROM switch")
    place = f"/dead-letters/{office.name}/1/edit"
    form = office.browser.get(place)
    hidden = {
        name: html.unescape(value)
        for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form.text)
    }
    edited = {**hidden, "service": office.name, "id": "1", "value": '{"trail":"k","number":5}', "reason": "why"}
    common = {"csrf": hidden["csrf"], "service": office.name, "id": "1", "reason": "why"}
    with tallies.held("LOCK TABLE exactly_once_dead_letter"):
        answers = [
            office.browser.post("/act/edit", data=edited),
            office.browser.post("/act/dismiss", data=common),
            office.browser.post("/act/redrive", data=common),
        ]
        assert office.browser.get(place).status_code == 503
    for answer in answers:
        assert answer.status_code == 409
        assert "lock timeout" in html.unescape(answer.text), answer.text
    assert tallies.decisions() == [], "nothing was decided"

    assert office.browser.post("/act/edit", data={**edited, "redrive": "yes"}).status_code == 200
    tallies.work()
    assert tallies.effects() == [5]


def test_an_id_that_is_nowhere_is_an_answer(office: Office) -> None:
    for wanted in ("nobody-has-this", "a" * 5_000, "%00\x1b[2J<script>", "'; DROP TABLE x; --"):
        answer = office.browser.get("/story", params={"id": wanted})
        assert answer.status_code in (200, 404), answer.text
        told = html.unescape(answer.text)
        assert re.search("Nobody has it as a key|is not an id|longer than|characters|bytes|NUL", told), told
        assert "<script>" not in answer.text.partition("<main")[2]
    for place in (f"/dead-letters/{office.name}/77", f"/dead-letters/{office.name}/77/edit"):
        answer = office.browser.get(place)
        assert answer.status_code == 404
        assert "has no dead letter 77" in answer.text
    answer = office.act("redrive", id=77)
    assert (answer.status_code, office.said(answer)) == (409, ["77: there is no such dead letter"])
    assert office.said(office.act("dismiss", id=77, reason="why")) == ["no such dead letter waits"]
