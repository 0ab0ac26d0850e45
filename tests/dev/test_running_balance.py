"""The running balance of the demo: what is lost, doubled or astray is seen at once; what is not known is unknown."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import psycopg
import pytest

from dev.balance import Book
from dev.demo.chaos import Blow, Struck
from dev.demo.running import BESIDE, RunningBalance, so_far
from dev.servers import Postgres
from shared.console.beside import Beside, File
from shared.console.looks import Watch
from shared.settings import Settings
from shared.testing import databases


@pytest.fixture(scope="module")
def settings(postgres: Postgres) -> Iterator[Settings]:
    with databases.migrated(postgres, "order", "inventory", "payment") as made:
        yield made


class Demo:
    """A running balance that looks when it is asked to."""

    def __init__(self, settings: Settings, place: Path) -> None:
        self.settings, self.place = settings, place / BESIDE
        self.book = Book()
        self.observer: Any = MagicMock(counts=Counter(), doubled=0, error=None)
        self.balance = RunningBalance(self.place, self.dsn, self.book, self.observer, lambda: ("0 killed", "nothing"))

    def dsn(self, service: str) -> str:
        return self.settings.migration_dsn(service).replace("+psycopg", "")

    def execute(self, service: str, statement: str) -> None:
        with psycopg.connect(self.dsn(service)) as connection:
            connection.execute(statement.encode())

    def shown(self) -> dict[str, tuple[str | None, str | None]]:
        """Return value and state of each number that the console shows."""
        self.balance._renew()
        found: Beside = File(self.place, Watch()).read()
        return {row.what: (row.value, row.state) for row in found.rows}


@pytest.fixture
def demo(settings: Settings, tmp_path: Path) -> Iterator[Demo]:
    made = Demo(settings, tmp_path)
    yield made
    made.balance.close()


ORDER = "INSERT INTO orders (id, account, state) VALUES ('{0}', 'ada', '{1}')"
SHELF = """
    INSERT INTO stock (sku, price, currency, available, reserved, sold, received)
    VALUES ('tea', 450, 'EUR', 5, 2, 3, 10)
"""
ENTRY = "INSERT INTO entry (posting, side, account, amount, currency) VALUES ('{0}', '{1}', {2}, {3}, 'EUR')"


def test_what_was_promised_is_there_and_what_is_lost_is_seen(demo: Demo) -> None:
    assert demo.shown()["of them lost"] == ("0", "ok")
    demo.execute("order", ORDER.format("o-1", "PLACED"))
    demo.execute("order", ORDER.format("o-2", "CANCELLED"))
    demo.book.accepted.update({"o-1": "1", "o-2": "2"})
    shown = demo.shown()
    assert (shown["orders promised"], shown["of them lost"]) == (("2", None), ("0", "ok"))
    assert shown["orders confirmed"] == ("0", None)
    assert "0 rejected, 1 cancelled, 1 on their way" in demo.place.read_text()

    demo.book.accepted["o-3"] = "3"
    assert demo.shown()["of them lost"] == ("1", "bad")
    demo.observer.counts.update(OrderPlaced=2, OrderCancelled=1)
    assert demo.shown()["of them doubled"] == ("0", "ok")
    demo.observer.doubled = 1
    shown = demo.shown()
    assert (shown["events published"], shown["of them doubled"]) == (("3", None), ("1", "bad"))


def test_goods_and_money_that_are_astray_are_seen(demo: Demo) -> None:
    assert demo.shown()["pieces sold"] == (None, None), "there is no shelf"
    demo.execute("inventory", SHELF)
    for posting, side, account, amount in (
        ("deposit:1", "customer", "'ada'", 10_000),
        ("deposit:1", "cash", "NULL", -10_000),
        ("hold:o-1", "customer", "'ada'", -450),
        ("hold:o-1", "held", "NULL", 450),
        ("capture:o-1", "held", "NULL", -450),
        ("capture:o-1", "merchant", "NULL", 450),
    ):
        demo.execute("payment", ENTRY.format(posting, side, account, amount))
    demo.book.received["tea"], demo.book.deposited["ada"] = 10, 10_000
    shown = demo.shown()
    assert (shown["pieces sold"], shown["money earned"]) == (("3", "ok"), ("4.50", "ok"))

    demo.book.received["tea"], demo.book.deposited["ada"] = 11, 10_001
    shown = demo.shown()
    assert (shown["pieces sold"], shown["money earned"]) == (("3", "bad"), ("4.50", "bad"))
    assert "paid in 100.01, on record 100.00, astray 0.00" in demo.place.read_text()

    demo.book.received["tea"], demo.book.deposited["ada"] = 10, 10_000
    demo.execute("payment", ENTRY.format("hold:o-2", "customer", "'ada'", -450))
    assert demo.shown()["money earned"] == ("4.50", "bad"), "taken from a customer, and nobody has it"


def test_what_nobody_can_say_is_unknown(demo: Demo) -> None:
    demo.book.accepted["o-1"] = "1"
    demo.observer.error = ValueError("a reader that has ended")
    demo.balance._dsn = lambda _: "postgresql://nobody@127.0.0.1:1/nothing"
    shown = demo.shown()
    assert shown.pop("orders promised") == ("1", None)
    assert shown.pop("struck so far") == ("0 killed", None)
    assert set(shown.values()) == {(None, None)}


def test_the_end_is_shown_before_all_ends(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dev.demo.running.SHOWN_SECONDS", 0)
    with demo.balance:
        demo.balance.end(MagicMock(rows=[MagicMock(ok=True), MagicMock(ok=True)]))
    assert json.loads(demo.place.read_text())["words"] == "It balances: 2 comparisons, none differs"


def test_who_was_struck_is_told() -> None:
    assert so_far([]) == ("0 killed, 0 frozen", "nothing yet")
    blows = [("kill", "order api", True), ("freeze", "order worker 1", True), ("kill", "payment api", False)]
    found = so_far([Struck(Blow(0.0, kind, victim), 0.0, hit) for kind, victim, hit in blows])  # type: ignore[arg-type]
    assert found[0] == "1 killed, 1 frozen"
    assert found[1].startswith("last: order worker 1, ")
