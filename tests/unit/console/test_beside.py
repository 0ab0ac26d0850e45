"""Numbers of somebody else: shown while they are renewed, unknown otherwise, whatever the file holds."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shared.console import beside
from shared.console.application import make_application
from shared.console.board import Board
from shared.console.looks import Watch
from tests.unit.console.desk import Browser, settings

SHEET: dict[str, Any] = {
    "title": "The balance",
    "rows": [{"what": "orders", "value": "3", "note": "<b>", "state": "ok"}, {"what": "lost", "value": None}],
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "beside.json"


def shown(board: Board) -> str:
    """Return the page after a look at the file."""
    if board.beside is not None:
        board.beside.look.once()
    return Browser(make_application(board, settings(), "shop")).get("/").text


def test_what_the_file_says_is_shown_and_what_it_does_not_know_is_unknown(place: Path) -> None:
    place.write_text(json.dumps(SHEET))
    board = Board([], place)
    page = shown(board)
    assert "The balance" in page
    assert '<dt>orders</dt><dd data-state="ok">3</dd><dd class="note">&lt;b&gt;</dd>' in page
    assert '<dt>lost</dt><dd data-state="unknown">unknown</dd>' in page

    place.unlink()
    page = shown(board)
    assert "unknown: beside.json: " in page
    assert "The balance" not in page


def test_without_a_file_nothing_stands_beside_the_picture() -> None:
    assert 'id="beside"' not in shown(Board([]))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "EOF"),
        (b"\xff", "valid"),
        (b"[" * 19_000, "recursion"),
        (b" " * 20_001, "more than 20,000 bytes"),
        (b"[]", "it: Input should be an object"),
        (json.dumps({**SHEET, "rows": SHEET["rows"] * 11}).encode(), "rows: List should have at most 20"),
        (json.dumps({**SHEET, "title": "x" * 301}).encode(), "title: String should have at most 300"),
        (json.dumps({**SHEET, "html": ""}).encode(), "html: Extra inputs"),
        (json.dumps({**SHEET, "state": 'ok" onload="'}).encode(), "state: Input should be"),
    ],
)
def test_a_file_of_another_shape_is_refused_with_the_reason(place: Path, content: bytes, why: str) -> None:
    place.write_bytes(content)
    with pytest.raises(ValueError, match=why):
        beside.File(place, Watch()).read()


def test_a_file_that_nobody_renews_is_not_believed(place: Path) -> None:
    place.write_text(json.dumps(SHEET))
    os.utime(place, (1, 1))
    with pytest.raises(ValueError, match="it was not renewed for"):
        beside.File(place, Watch()).read()
