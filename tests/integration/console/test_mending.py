"""What is done on the page is done by the operators' commands: once, with a decision that has a name and a reason."""

import html
import json
import re
import threading
from datetime import timedelta
from typing import Any

import pytest

from tests.integration.console.office import Office, hidden
from tests.integration.operations.test_parked_keys import hold_up
from tests.integration.operations.test_schedule import put
from tests.integration.tallies import Tallies
from tests.integration.tally_topics import headers

HOSTILE = '<script>alert("x")</script>\x1b[31m\u202e'


@pytest.fixture
def broken(tallies: Tallies) -> Tallies:
    """Five dead letters: three defects, two rejected; what failed them is mended."""
    tallies.sql("INSERT INTO switch VALUES ('defect'), ('reject')")
    tallies.ask(1, 2, 3, wish="defect")
    tallies.ask(4, 5, wish="reject")
    tallies.work()
    tallies.sql("DELETE FROM switch")
    return tallies


def decided(tallies: Tallies) -> list[tuple[str, Any, Any]]:
    return [(one["command"], one["before"], one["after"]) for one in tallies.decisions()]


def test_a_dead_letter_is_read(broken: Tallies, office: Office) -> None:
    page = office.browser.get("/dead-letters").text
    assert page.count(f'href="/dead-letters/{office.name}/') == 5
    assert "Unlucky" in page or "RuntimeError" in page

    shown = html.unescape(office.browser.get(f"/dead-letters/{office.name}/4").text)
    assert '"number": 4' in shown
    assert "asked-4" in shown
    assert "Reject" in shown
    assert "ce_type" in shown
    assert "trail.py" in shown


def test_they_are_filtered_and_come_in_pages(broken: Tallies, office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.console.application.ROWS", 2)
    pages, place = [], "/dead-letters"
    while place:
        text = office.browser.get(place).text
        pages.append(text.count(f'href="/dead-letters/{office.name}/'))
        place = html.unescape("".join(re.findall(r'<a href="([^"]+)">Next page', text)))
    assert pages == [2, 2, 1]

    found = office.browser.get("/dead-letters", params={"error": "Reject"}).text
    assert found.count(f'href="/dead-letters/{office.name}/') == 2
    assert "No dead letter waits that matches" in office.browser.get("/dead-letters?topic=nowhere").text
    assert office.browser.get("/dead-letters?after=x&state=y").status_code == 200


def test_one_is_redriven_once_and_the_second_operator_is_told(broken: Tallies, office: Office) -> None:
    first = office.act("redrive", id=1)
    second = office.act("redrive", office.of("grace"), id=1)

    assert office.said(first) == ["1: re-driven"]
    assert "1: was re-driven before: at " in office.said(second)[0]
    broken.work()
    assert broken.effects() == [1]
    assert decided(broken) == [
        ("dead-letters redrive", {"ids": [1]}, {"by": "ada", "outcome": "re-driven"}),
    ], "the second has decided nothing"


def test_two_at_the_same_moment_take_effect_once(broken: Tallies, office: Office) -> None:
    said: list[list[str]] = []
    browsers = [office.of("ada"), office.of("grace")]
    threads = [
        threading.Thread(target=lambda one=one: said.append(office.said(office.act("redrive", one, id=1))))
        for one in browsers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    broken.work()
    assert broken.effects() == [1]
    assert sum("1: re-driven" in lines for lines in said) == 1, said
    assert all(lines for lines in said)


def test_those_that_match_are_redriven_and_what_fails_again_stays(broken: Tallies, office: Office) -> None:
    broken.sql("INSERT INTO switch VALUES ('reject')")
    answer = office.act("redrive-all", error="Reject")
    assert answer.status_code == 409
    assert [line.split(":")[:2] for line in office.said(answer)] == [["4", " failed"], ["5", " failed"]]

    broken.sql("DELETE FROM switch")
    assert office.act("redrive-all").status_code == 200
    broken.work()
    assert sorted(broken.effects()) == [1, 2, 3, 4, 5]
    asked = office.browser.get(f"/confirm/redrive-all?service={office.name}")
    assert (asked.status_code, "No such dead letter waits" in asked.text) == (409, True)


def test_one_is_dismissed_with_a_reason(broken: Tallies, office: Office) -> None:
    refused = office.act("dismiss", id=1, reason=" ")
    assert (refused.status_code, decided(broken)) == (409, [])

    assert office.act("dismiss", id=1, reason=f"test data {HOSTILE}").status_code == 200
    again = office.act("dismiss", office.of("grace"), id=1, reason="too")
    assert (again.status_code, office.said(again)) == (409, ["no such dead letter waits"])
    ((command, before, after),) = decided(broken)
    assert (command, before, after["by"], after["letters"]) == ("dead-letters dismiss", {"ids": [1]}, "ada", [1])
    page = office.browser.get("/decisions").text
    assert "ada" in page
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page

    answer = office.act("redrive", id=1, dismissed="yes")
    assert office.said(answer) == ["1: re-driven"]


@pytest.mark.parametrize(("act", "done"), [("dismiss-all", "dismissed by decision"), ("redrive-all", "5: re-driven")])
def test_what_came_after_the_question_is_left_out(broken: Tallies, office: Office, act: str, done: str) -> None:
    asked = office.browser.get(f"/confirm/{act}", params={"service": office.name})
    assert f"{act.partition('-')[0].capitalize()} all 5?" in asked.text
    broken.sql("INSERT INTO switch VALUES ('reject')")
    broken.ask(6, wish="reject")
    broken.work()
    broken.sql("DELETE FROM switch")

    said = office.said(office.browser.post(f"/act/{act}", data={**hidden(asked), "reason": "made up"}))
    assert done in " ".join(said)
    assert said[-1] == "1 more that match has come since you were asked: left out"
    left = "SELECT id FROM exactly_once_dead_letter WHERE redriven_at IS NULL AND dismissed_at IS NULL"
    assert broken.sql(left) == [6]


def test_a_reason_has_as_many_characters_as_the_browser_has_counted(broken: Tallies, office: Office) -> None:
    assert office.act("dismiss", id=1, reason="\r\n".join("x" * 1_000)).status_code == 200
    assert office.act("dismiss", id=2, reason="\r\n".join("x" * 1_001)).status_code == 409
    ((_, _, after),) = decided(broken)
    assert after["reason"] == "\n".join("x" * 1_000)


def test_those_that_match_are_dismissed(broken: Tallies, office: Office) -> None:
    assert office.act("dismiss-all", error="Reject", reason="made up").status_code == 200
    assert office.act("dismiss-all", reason="all").status_code == 200
    assert [(before, after["number"]) for _, before, after in decided(broken)] == [({"error": "Reject"}, 2), ({}, 3)]


def test_an_input_is_paused_and_resumed(tallies: Tallies, office: Office) -> None:
    topic = tallies.asked.topic
    assert f'/confirm/pause-input?service={office.name}&amp;topic={topic}"' in office.browser.get("/waiting").text
    assert office.act("pause-input", topic=topic, reason=" ").status_code == 409
    assert office.act("pause-input", topic="nowhere", reason="r").status_code == 409
    first = office.act("pause-input", topic=topic, reason=f"wrong prices {HOSTILE}")
    second = office.act("pause-input", office.of("grace"), topic=topic, reason="too")
    assert (first.status_code, second.status_code) == (200, 409)
    assert f"{topic} is paused by ada since" in office.said(second)[0]

    page = office.until_problem(f"{topic} is paused")
    assert f"inputs resume {topic}" in page
    assert "paused by ada" in office.browser.get("/").text
    waiting = office.browser.get("/waiting").text
    for shown in (page, waiting):
        assert "<script>alert" not in shown
        assert "\x1b" not in shown
    assert f'/confirm/resume-input?service={office.name}&amp;topic={topic}"' in waiting

    assert office.act("resume-input", topic=topic).status_code == 200
    assert office.act("resume-input", topic=topic).status_code == 409
    assert [(command, after["by"], after.get("reason")) for command, _, after in decided(tallies)] == [
        ("inputs pause", "ada", f"wrong prices {HOSTILE}"),
        ("inputs resume", "ada", None),
    ]


def test_a_large_one_is_cut_with_a_note_and_many_of_them_are_listed(tallies: Tallies, office: Office) -> None:
    value = b'{"a": "' + b"x" * 900_000 + b'"}'
    tallies.produce(value, event_headers=headers("large"))
    tallies.work()
    tallies.sql(
        'INSERT INTO exactly_once_dead_letter (topic, partition, "offset", epoch, key, value, headers, error, detail) '
        "SELECT topic, partition, n, epoch, key, value, headers, error, detail "
        "FROM exactly_once_dead_letter, generate_series(1, 300) AS n"
    )
    page = office.browser.get("/dead-letters")
    assert page.status_code == 200
    assert "900,009" in page.text
    assert len(page.content) < 200_000

    shown = office.browser.get(f"/dead-letters/{office.name}/1")
    assert shown.status_code == 200
    assert "Only the first 100,000 bytes" in shown.text
    assert len(shown.content) < 300_000


def test_what_others_have_written_does_nothing(tallies: Tallies, office: Office) -> None:
    evil = [*headers(HOSTILE, f"Evil{HOSTILE}.v1"), (HOSTILE, HOSTILE.encode()), ("none", None), ("\xe9", b"\xff\x00")]
    tallies.produce(json.dumps({"x": HOSTILE}).encode(), HOSTILE.encode(), evil)
    tallies.produce(b"\x00\xff" * 100, b"\xff\x00", evil)
    tallies.produce(None, None)
    tallies.work()

    count = tallies.sql("SELECT count(*) FROM exactly_once_dead_letter")[0]
    assert count >= 1
    pages = ["/dead-letters", *(f"/dead-letters/{office.name}/{n}" for n in range(1, count + 1))]
    for place in pages:
        answer = office.browser.get(place)
        assert answer.status_code == 200, answer.text
        assert "<script>alert" not in answer.text
        assert not {"\x1b", "\u202e", "\x00"} & set(answer.text)


def test_a_key_that_waits_is_tried_and_given_up(tallies: Tallies, office: Office) -> None:
    hold_up(tallies, "retry")
    page = office.browser.get("/waiting").text
    assert f"{tallies.source}@1" in page
    assert "Retry" in page
    tallies.sql("UPDATE exactly_once_parked SET due = clock_timestamp() + interval '1 day'")
    assert office.act("retry-key", target=tallies.source, key="6b").status_code == 200
    assert tallies.sql("SELECT count(*) FROM exactly_once_parked WHERE due <= clock_timestamp()") != [0]

    late = office.act("give-up-key", target=tallies.source, key="6b", offset=2, reason="never")
    assert "waits at offset 1, not at 2" in html.unescape(office.said(late)[0])
    assert office.act("give-up-key", target=tallies.source, key="6b", offset=1, reason="never").status_code == 200
    tallies.work(parks=1)
    assert tallies.effects() == [1, 5, 3, 4]
    assert [(command, after["by"]) for command, _, after in decided(tallies)] == [
        ("parked retry-now", "ada"),
        ("parked give-up", "ada"),
    ]


@pytest.mark.parametrize(
    "end", ["a\u00a0b", "\u202eevil", "one\nother", "one\r\nother", r"a\xa0b", "100%41+&x=1", HOSTILE]
)
def test_one_of_any_name_is_cancelled(tallies: Tallies, office: Office, end: str) -> None:
    put(tallies, 1, timedelta(hours=1))
    tallies.sql("UPDATE exactly_once_schedule SET name = %s", f"n:{end}")
    place = re.findall(r'href="(/confirm/cancel-event[^"]*)"', office.browser.get("/waiting").text)[0]
    form = hidden(office.browser.get(html.unescape(place)))
    assert all(value.isprintable() for value in form.values())  # a browser changes the ends of lines
    answer = office.browser.post("/act/cancel-event", data={**form, "reason": "a test"})
    assert (answer.status_code, tallies.sql("SELECT name FROM exactly_once_schedule")) == (200, [])
    assert [one["source"] for one in tallies.decisions()] == [f"n:{end}"]


def test_a_scheduled_event_is_cancelled_unless_it_was_replaced(tallies: Tallies, office: Office) -> None:
    for number in (1, 2):
        put(tallies, number, timedelta(hours=number))
    page = html.unescape(office.browser.get("/waiting").text)
    assert page.index("n-1") < page.index("n-2")
    (event_id,) = tallies.sql("SELECT event_id FROM exactly_once_schedule WHERE name = 'n-1'")

    replaced = office.act("cancel-event", name="n-1", event_id="another", reason="why")
    assert "n-1 was replaced meanwhile" in office.said(replaced)[0]
    assert office.act("cancel-event", name="n-1", event_id=event_id, reason="a test").status_code == 200
    again = office.act("cancel-event", office.of("grace"), name="n-1", event_id=event_id, reason="a test")
    assert "nothing is scheduled as n-1" in office.said(again)[0]
    (event_id,) = tallies.sql("SELECT event_id FROM exactly_once_schedule")
    assert office.act("run-event-now", name="n-2", event_id=event_id, reason="a test").status_code == 200
    assert [(command, after["reason"]) for command, _, after in decided(tallies)] == [
        ("schedule cancel", "a test"),
        ("schedule run-now", "a test"),
    ]


def test_a_server_that_goes_away_in_the_middle_is_an_answer(office: Office, tallies: Tallies) -> None:
    tallies.servers.postgres.drop_database(tallies.name)
    try:
        answer = office.act("dismiss", id=1, reason="why")
        assert answer.status_code == 409
        assert "does not exist" in office.said(answer)[0]
    finally:
        tallies.servers.postgres.create_database(tallies.name)


def test_a_dead_letter_is_edited_and_redriven_with_what_it_is_then(broken: Tallies, office: Office) -> None:
    place = f"/dead-letters/{office.name}/1"
    form = office.browser.get(f"{place}/edit").text
    offered = html.unescape(form.partition("required>\n")[2].partition("</textarea>")[0])
    assert json.loads(offered) == {"trail": "k", "number": 1, "wish": "while defect"}

    value = offered.replace('"number": 1', '"number": 11')
    shown = office.browser.post(f"{place}/edit", data={**hidden(office.browser.get(f"{place}/edit")), "value": value})
    page = html.unescape(shown.text)
    assert re.findall(r'<tr data-sign="(\w+)">.*?<code>(.*?)</code>', page, re.DOTALL) == [
        ("stays", "{"),
        ("stays", '  "trail": "k",'),
        ("goes", '  "number": 1,'),
        ("comes", '  "number": 11,'),
        ("stays", '  "wish": "while defect"'),
        ("stays", "}"),
    ]
    assert decided(broken) == []

    answer = office.edit(1, value.replace("\n", "\r\n"))
    assert "dead letter 1 is edited by decision 1" in office.said(answer)[0]
    page = html.unescape(office.browser.get(place).text)
    assert "By decision 1 of ada" in page
    assert "A redrive handles this value" in page
    edited, came = page.split("Value as it came")
    assert '"number": 11,' in edited
    assert ('"number": 11,' in came, '"number": 1,' in came) == (False, True), "the original stays"
    assert "edited by decision 1" in office.browser.get("/dead-letters").text

    assert office.said(office.act("redrive", id=1)) == ["1: re-driven: as edited by decision 1 of ada"]
    broken.work()
    assert broken.effects() == [11]
    ((command, before, after), _) = decided(broken)
    assert (command, after["by"], after["reason"]) == ("dead-letters edit", "ada", "a typo")
    assert (json.loads(before["value"])["number"], json.loads(after["value"])["number"]) == (1, 11)
    assert office.browser.get(f"{place}/edit").status_code == 409


def test_it_is_redriven_at_once_and_what_fails_again_shows_the_edited_value(broken: Tallies, office: Office) -> None:
    wish = '{"trail": "k", "number": 4, "wish": "%s"}'
    answer = office.edit(4, wish % "defect", redrive="yes")
    assert answer.status_code == 409
    assert office.said(answer)[1] == "4: failed: Unlucky: number 4"
    page = html.unescape(office.browser.get(f"/dead-letters/{office.name}/4").text)
    assert '"wish": "defect"' in page
    assert "<h2>Unlucky</h2>" in page

    assert office.said(office.edit(4, wish % "", redrive="yes"))[1] == "4: re-driven: as edited by decision 2 of ada"
    broken.work()
    assert broken.effects() == [4]


def test_an_edit_that_could_not_be_handled_is_shown_as_such_and_kept_only_on_demand(
    broken: Tallies, office: Office
) -> None:
    refused = office.edit(1, '{"trail": "k",\n "number": "one"}')
    assert refused.status_code == 409
    assert "Asked cannot be read: Expected `int`, got `str` - at `$.number`. It was not kept" in html.unescape(
        office.said(refused)[0]
    )
    assert decided(broken) == []

    assert office.edit(1, '{"trail": "k",\n "number": "one"}', force="yes").status_code == 200
    (failed,) = office.said(office.act("redrive", id=1))
    assert "Malformed: Asked cannot be read" in failed
    assert office.edit(1, '{"trail": "k", "number": 1}', redrive="yes").status_code == 200
    broken.work()
    assert broken.effects() == [1]


def test_two_who_edit_the_same_one_are_told_and_lose_nothing(broken: Tallies, office: Office) -> None:
    grace, place = office.of("grace"), f"/dead-letters/{office.name}/1/edit"
    form = hidden(grace.get(place))
    shown = hidden(grace.post(place, data={**form, "value": '{"trail": "k", "number": 7}'}))
    assert office.edit(1, '{"trail": "k", "number": 8}').status_code == 200

    late = grace.post("/act/edit", data={**shown, "reason": "mine"})
    assert late.status_code == 409
    assert "edited meanwhile, by decision 1 of ada" in office.said(late)[0]
    again = html.unescape(grace.post(place, data={**form, "value": '{"trail": "k", "number": 7}'}).text)
    assert "It was edited meanwhile, by decision 1 of ada" in again
    assert '"number": 7' in again, "what was typed is still there"
    assert office.act("dismiss", id=1, reason="never mind").status_code == 200
    assert "dismissed already" in grace.get(place).text
    late = grace.post("/act/edit", data={**shown, "reason": "mine"})
    assert "dead letter 1 was dismissed by decision 2" in office.said(late)[0]
    assert [command for command, _, _ in decided(broken)] == ["dead-letters edit", "dead-letters dismiss"]


def test_what_a_page_cannot_bring_back_as_it_was_is_not_edited_there(tallies: Tallies, office: Office) -> None:
    hostile = json.dumps({"trail": f"k{HOSTILE}</textarea>"}, ensure_ascii=False)
    for n, value in enumerate((b"\x00\xff", b"a\rb", b'{"a": "' + b"x" * 200_000 + b'"}', None, hostile.encode())):
        tallies.produce(value, event_headers=headers(f"odd-{n}"))
    tallies.work()
    told = [office.browser.get(f"/dead-letters/{office.name}/{n}/edit") for n in range(1, 6)]

    assert all(answer.status_code == 200 for answer in told)
    assert "neither JSON nor text that a form brings back" in told[0].text
    assert "neither JSON nor text that a form brings back" in told[1].text
    assert "has 200,009 bytes, and a page edits up to 100,000" in told[2].text
    assert "It has no value" in told[3].text
    assert all("dead-letters edit" in answer.text and "<textarea" not in answer.text for answer in told[:4])
    text = told[4].text.partition("<textarea")[2]
    assert text.count("</textarea>") == 1
    assert "<script>alert" not in text
    assert not {"\x1b", "\u202e"} & set(text)
