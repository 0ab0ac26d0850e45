"""`story` prints a timeline on any terminal, and refuses what is no id."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from dev.servers import service_names
from shared import command
from shared.errors import CommandFailed, Unavailable
from shared.operations import story
from shared.operations.story_entries import Entry, Told
from shared.operations.story_telling import Story, refuse_wrong

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
DEFAULTS = {"since": None, "records": 10, "everywhere": False, "values": False, "json": False}
SERVICE = service_names()[0]
HOSTILE = "<script>\x1b[2J\r\n\u202e"
PLACED = Entry("published", "order", NOON, "order:1", "OrderPlaced.v1", "order", "o-1", "order.events", 2, 7)


def told(*entries: Entry) -> Story:
    made = [Told(n, entry, n - 1 or None) for n, entry in enumerate(entries, 1)]
    return Story("o-1", "o-1", made, ("all 9 offsets of order.events[2]",), ("payment: its database is away",))


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what tells a story instead of the servers."""

    def tells(found: Story) -> Any:
        monkeypatch.setattr(story, "tell", lambda *_given, **_more: found)
        settings = SimpleNamespace(database_url=SecretStr("postgresql://x:hunter2@h/order"))
        return SimpleNamespace(settings=settings, service=SimpleNamespace(name="this"), engine=None)

    return tells


def show(context: Any, wanted: str = "o-1", **more: Any) -> None:
    story.show(context, wanted, **{**DEFAULTS, **more})


def test_a_timeline(telling: Any, capsys: pytest.CaptureFixture[str]) -> None:
    handled = Entry("handled", "inventory", NOON, "order:1", "OrderPlaced.v1", "order", "o-1", "order.events", 2, 7)

    show(telling(told(PLACED, handled)))

    assert capsys.readouterr().out.splitlines() == [
        "The story of o-1",
        "",
        "     TIME (UTC)               SERVICE    WHAT       EVENT        WHERE              BY",
        "  1  2026-11-30 12:00:00.000  order      published  OrderPlaced  order.events[2]@7",
        "                              order:1",
        "  2  2026-11-30 12:00:00.000  inventory  handled    OrderPlaced  order.events[2]@7  1",
        "",
        "Looked at: all 9 offsets of order.events[2]",
        "Not looked at: payment: its database is away",
    ]


def test_nothing_in_it_can_affect_a_terminal(telling: Any, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = Entry(
        "published",
        HOSTILE,
        None,
        HOSTILE,
        HOSTILE * 100,
        HOSTILE,
        HOSTILE,
        HOSTILE,
        0,
        0,
        detail=HOSTILE,
        value=HOSTILE,
    )

    show(telling(told(hostile)), HOSTILE)
    shown = capsys.readouterr().out.splitlines()
    show(telling(told(hostile)), HOSTILE, json=True)
    as_json = capsys.readouterr().out

    assert all(line.isprintable() for line in (*shown, *as_json.splitlines()))
    assert max(map(len, shown)) < 600
    facts = json.loads(as_json)
    assert facts["entries"][0]["value"] == HOSTILE
    assert facts["not_looked_at"] == ["payment: its database is away"]


def test_what_nobody_knows_is_refused_with_what_was_asked(telling: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandFailed, match=r"^nothing is known of o-1: nobody has it as a key or as an event's id$"):
        show(telling(told()))

    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "Asked: no database",
        "Looked at: all 9 offsets of order.events[2]",
        "Not looked at: payment: its database is away",
    ]


def test_while_a_server_is_away_nobody_can_say_that(telling: Any) -> None:
    away = Story("o-9", "o-9", (), away=True)

    with pytest.raises(Unavailable, match="nothing is known of o-9"):
        show(telling(away), "o-9")


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("", "is empty"),
        ("a\0b", "NUL"),
        ("x" * 10_000_000, "has 10,000,000 characters"),
        ("漢" * 2_000, "has 6,000 bytes"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_what_is_no_id_is_refused_before_anything_is_asked(wanted: str, why: str) -> None:
    with pytest.raises(CommandFailed, match=why) as refused:
        refuse_wrong(wanted)

    assert len(str(refused.value)) < 200


def test_since_is_a_time(telling: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandFailed, match="--since takes a time"):
        show(telling(told(PLACED)), since=7)
    with pytest.raises(SystemExit):
        command.parser("order").parse_args(["story", "o-1", "--since", "yesterday"])
    assert "neither an offset nor a time" in capsys.readouterr().err


def test_services_whose_databases_it_cannot_find_are_named(monkeypatch: pytest.MonkeyPatch, telling: Any) -> None:
    monkeypatch.setattr(story, "packages_beside", lambda: [f"services.{SERVICE}", "services.nowhere"])

    with story.databases(telling(told())) as (engines, services, away):
        assert (list(engines), services) == (["this"], [])

    assert away == [
        f"{name}: its database was not asked: DATABASE_URL has no {{service}}, so it leads to this service's database "
        f"alone; ask with `python -m services.{name} story ID`"
        for name in (SERVICE, "nowhere")
    ]


def test_what_a_service_beside_this_one_declares() -> None:
    found = story.declaration(f"services.{SERVICE}")

    assert found is not None
    assert found.name == SERVICE
    assert story.declaration("services.nowhere") is None
    assert story.declaration("json") is None
