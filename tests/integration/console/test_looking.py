"""What the console shows is what Kafka and PostgreSQL have; for looking, a role is enough that may only read."""

import html
import re
import threading
import uuid
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Producer
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.audit.audit import Bounds
from shared.console import audits
from shared.console.sight import Tables
from shared.testing import SECONDS_MAX, until
from tests.integration.console.office import Office, hidden
from tests.integration.tallies import Tallies

READER = "tally_reader"


def test_what_waits_is_counted(office: Office, tallies: Tallies) -> None:
    tallies.ask(1, 2)
    tallies.work()
    tallies.ask(3)
    tallies.request(4)

    until(lambda: office.fact("lag") == "1", "the record that nobody has handled")
    until(lambda: office.fact("rows") == "1", "the event that nobody has published")
    assert office.fact("oldest").endswith(" s")
    assert office.fact("handled") in ("0.0/s", "unknown")
    assert "no worker" in office.browser.get("/").text
    page = office.until_problem("No worker is up")
    assert "1 records to handle and up to 1 events to publish" in page
    assert f"python -m services.{office.name} worker" in page


def test_a_worker_is_seen_to_come_and_to_be_killed(office: Office, tallies: Tallies, tmp_path: Path) -> None:
    process = tallies.process(tmp_path / "worker.log")
    try:
        until(lambda: ">1 worker<" in office.browser.get("/").text, "the worker is seen")
        page = office.browser.get("/").text
        assert f"<span>{tallies.asked.topic} 0</span>, <span>lanes 0</span>" in page
        tallies.ask(*range(20))
        until(lambda: office.fact("lag") == "0" and len(tallies.effects()) == 20, "all is handled")
    finally:
        process.kill()
        process.wait()
    until(lambda: "slot 0 lost: the worker has ended" in office.browser.get("/").text, "its end is seen")
    assert ">no worker<" in office.browser.get("/").text

    process = tallies.process(tmp_path / "next.log")
    try:
        until(lambda: "s after it was lost" in office.browser.get("/").text, "the next one takes its slot")
        until(lambda: ">1 worker<" in office.browser.get("/").text, "and works")
    finally:
        process.kill()
        process.wait()


def test_who_holds_an_input_back_is_said_with_its_transactional_id_and_since_when(
    office: Office, tallies: Tallies
) -> None:
    name = f"mallory-{uuid.uuid4().hex[:8]}"
    stranger = Producer({"bootstrap.servers": tallies.settings.kafka_bootstrap_servers, "transactional.id": name})
    stranger.init_transactions(SECONDS_MAX)
    stranger.begin_transaction()
    stranger.produce(tallies.asked.topic, b"{}", b"k", headers=[("ce_id", b"<script>\x1b[2J")])
    assert stranger.flush(SECONDS_MAX) == 0
    try:
        page = office.until_problem(f"{tallies.source} is held back")
        told = html.unescape(page)
        assert re.search(
            rf"held back at offset 0 since 20[\d-]+ [\d:]+ UTC by transactional id {name} \(producer ", told
        )
        assert "<script>" not in page.partition("<main")[2]
        assert "\x1b" not in page
    finally:
        stranger.abort_transaction(SECONDS_MAX)
    until(lambda: "is held back" not in office.browser.get("/problems").text, "its end is seen")


def test_what_is_decided_and_not_published_is_a_problem(office: Office, tallies: Tallies) -> None:
    tallies.request(1, 2)
    tallies.sql("UPDATE exactly_once_outbox SET decided_at = clock_timestamp() - interval '10 minutes'")
    page = office.until_problem("up to 2 events to publish")
    assert "No worker is up" in page
    until(lambda: office.fact("oldest") == "10 min", "it tells since when")


def test_the_audit_runs_when_somebody_asks_and_finds_what_is_gone(
    office: Office, tallies: Tallies, monkeypatch: pytest.MonkeyPatch
) -> None:
    def audited() -> str:
        form = hidden(office.browser.get("/problems"))
        office.browser.post(f"/audit/{tallies.name}", data=form)
        office.board.audits.wait(SECONDS_MAX)
        return html.unescape(office.browser.get("/problems").text)

    assert "never run since this console was started" in office.browser.get("/problems").text
    tallies.ask(1, 2)
    tallies.work()
    page = audited()
    assert "nothing is wrong, as of 20" in page
    assert re.search(rf"2 records of {tallies.name} compared with 2 events in \d claims", page)

    tallies.sql("UPDATE exactly_once_claimed SET event_ids[1] = 'gone'")
    page = audited()
    assert "The audit has found events never published: 1" in page
    assert "The audit has found events that this database never decided: 1" in page
    assert page.index("events never published: 1</h4>") < page.index("events that this database never decided: 1</h4>")

    monkeypatch.setattr(audits, "BOUNDS", Bounds(records=1))
    page = audited()
    assert "records in its topics, and more than 1 are not compared here" in page
    assert f"python -m services.{tallies.name} audit" in page
    assert "The audit has found events never published: 1" in page, "what was found stays"
    monkeypatch.setattr(audits, "BOUNDS", Bounds(seconds=0))
    assert "it was not done after 0 s" in audited()
    tallies.servers.postgres.drop_database(tallies.name)
    assert "does not exist" in audited()
    tallies.servers.postgres.create_database(tallies.name)


def test_a_role_that_may_only_read_is_enough(tallies: Tallies) -> None:
    postgres = tallies.servers.postgres
    postgres.create_role(READER)
    with psycopg.connect(postgres.dsn(tallies.name), autocommit=True) as connection:
        connection.execute(f"GRANT USAGE ON SCHEMA public TO {READER}".encode())
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE tablename LIKE 'exactly\\_once\\_%'"
        ).fetchall()
        for (table,) in tables:
            connection.execute(f"GRANT SELECT ON {table} TO {READER}".encode())
    tallies.sql("INSERT INTO switch VALUES ('reject')")
    tallies.ask(1, wish="reject")
    tallies.work()
    with Office(tallies, console_database_url=postgres.dsn(tallies.name, READER)) as office:
        until(lambda: office.fact("lag") == "0", "what flows is seen")
        office.until_problem("1 dead letter from")
        for page in ("/dead-letters", f"/dead-letters/{office.name}/1", "/waiting", "/decisions"):
            assert office.browser.get(page).status_code == 200, page
        unread = [
            problem.title for problem in office.board.facts("problems")[0]["problems"] if "cannot" in problem.title
        ]
        assert unread == []
        with (
            pytest.raises(DBAPIError, match="read-only transaction"),
            office.board.known[office.name].reading.engine.begin() as connection,
        ):
            connection.execute(text("DELETE FROM exactly_once_dead_letter"))


def test_a_database_that_is_slow_holds_up_no_page_for_long(office: Office, tallies: Tallies) -> None:
    until(lambda: office.fact("rows") == "0", "it has answered")
    with tallies.held("LOCK TABLE exactly_once_dead_letter, exactly_once_lane"):
        answer = office.browser.get("/dead-letters")
        assert answer.status_code == 503
        assert "canceling statement" in answer.text
        office.until_problem("PostgreSQL does not answer")
        assert office.fact("lag") != "", "Kafka is asked apart from it"
    until(lambda: office.fact("rows") == "0", "it answers again")


def test_however_many_look_the_servers_are_asked_once(office: Office) -> None:
    sight = office.board.sights[office.name]
    asked: list[int] = []
    whole = sight.tables._ask

    def ask() -> Tables:
        asked.append(1)
        return whole()

    sight.tables._ask = ask
    browsers = [threading.Thread(target=office.of("ada").get, args=("/",)) for _ in range(8)]
    for one in browsers:
        one.start()
    for one in browsers:
        one.join()
    until(lambda: sight.tables.known(5) is not None, "it was asked")
    begun, answers = len(asked), sight.tables._number
    until(lambda: sight.tables._number >= answers + 3, "three more looks")

    assert len(asked) - begun <= 4


def test_when_nobody_looks_nothing_is_open(office: Office, tallies: Tallies) -> None:
    sight = office.board.sights[office.name]
    until(lambda: office.fact("rows") == "0", "it looks")
    office.board.watch._until = 0.0

    until(lambda: sight._group is None, "no client of Kafka")
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    until(lambda: tallies.sql(sessions) == [0], "no session of PostgreSQL")
