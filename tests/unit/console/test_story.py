"""The page that follows one order."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from shared.console import application
from shared.operations.maintenance import Context
from shared.operations.story_entries import Entry, Told
from shared.operations.story_telling import Story
from shared.service import Service
from tests.unit.console.desk import Desk

HOSTILE = "<script>alert(1)</script>\x1b[2J"


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    for name in ("shop", "store"):
        made.sees(name)
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Collection[str]]:
    """Tell a story of two steps, without servers; return which databases and services were asked."""
    seen: dict[str, Collection[str]] = {}

    def tell(context: Context, databases: Mapping[str, Engine], wanted: str, *, services: Collection[Service]) -> Story:
        seen.update(databases=list(databases), services=[service.name for service in services])
        when = datetime(2026, 11, 30, 8, 0, 0, 123_000, tzinfo=UTC)
        published = Entry(
            "published", "shop", when, event_id="e-1", event="Sold.v1", topic="shop.events", partition=2, offset=7
        )
        handled = Entry("handled", "store", None, key="other", event="Sold.v1", detail=HOSTILE)
        entries = [Told(1, published, None), Told(2, handled, 1)]
        return Story(wanted, "o-1", entries, looked=["shop.events[2]"], missed=["payment: it is away"])

    monkeypatch.setattr(application, "tell", tell)
    return seen


def test_nothing_is_asked_before_there_is_an_id(desk: Desk, asked: dict[str, Collection[str]]) -> None:
    page = desk.browser.get("/story")
    assert page.status_code == 200
    assert 'name="id"' in page.text
    assert asked == {}


def test_an_order_is_followed_through_all_services(desk: Desk, asked: dict[str, Collection[str]]) -> None:
    page = desk.browser.get("/story", params={"id": "e-1"})
    assert page.status_code == 200
    assert asked == {"databases": ["shop", "store"], "services": ["shop", "store"]}
    for words in ("2026-11-30 08:00:00.123", "shop.events[2]@7", "not yet", 'href="#step-1"', "/story?id=other"):
        assert words in page.text
    assert "/story?id=o-1" in page.text, "what was asked for is an event; its key has the whole story"
    assert "payment: it is away" in page.text


def test_what_others_wrote_does_nothing_on_the_page(desk: Desk, asked: dict[str, Collection[str]]) -> None:
    page = desk.browser.get("/story", params={"id": HOSTILE})
    assert "<script>alert" not in page.text
    assert "\x1b" not in page.text


@pytest.mark.parametrize(
    ("wanted", "status", "words"),
    [("a\0b", 400, "NUL"), ("x" * 4_001, 404, "4,001 characters"), ("ä" * 2_001, 404, "4,002 bytes")],
)
def test_what_is_no_id_is_refused_with_a_sentence(desk: Desk, wanted: str, status: int, words: str) -> None:
    page = desk.browser.get("/story", params={"id": wanted})
    assert page.status_code == status
    assert words in page.text
