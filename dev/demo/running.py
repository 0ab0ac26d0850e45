"""The balance while orders flow, for the console of the demo: what holds at any moment, whatever was killed just then.

Read first is what the customers and a reader of the topics know, and after that the tables, which must have at least as
much: four questions a second. A file (`CONSOLE_BESIDE`) is renewed with what they say. The balance sheet at the end
compares everything, one by one; this only shows sums.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from dev.balance import Book, Sheet
from dev.demo.chaos import Struck
from dev.demo.observer import Observer

BESIDE = "beside.json"
"""The name of the file, among the logs."""
SECONDS = 1.0
"""Between two looks. After one that took long, four times as long: it shall not become a load."""
PAUSE_FACTOR = 4
CONNECT_SECONDS = 2
STATEMENT_MS = 1_000
"""A table that takes longer is not known, and the next look tries again."""
LOOK_SECONDS_MAX = 4 * (CONNECT_SECONDS + STATEMENT_MS / 1_000)
"""Of its four questions."""
CHECKED_AT_ONCE = 5_000
"""Promised orders that are looked up by one look; what is found is not looked up again."""
SHOWN_SECONDS = 1.5
"""The page shows a file within two looks of half a second."""

FOUND = "SELECT id FROM orders WHERE id = ANY(%(ids)s)"
STATES = "SELECT state, count(*) FROM orders GROUP BY state"
STOCK = "SELECT sum(received), sum(available), sum(reserved), sum(sold) FROM stock"
MONEY = "SELECT side, sum(amount) FROM entry GROUP BY side"
FINAL = ("CONFIRMED", "REJECTED", "CANCELLED")

Fact = dict[str, str | None]


class RunningBalance:
    """Renews the file on a thread of its own, until the block ends."""

    def __init__(
        self,
        place: Path,
        dsn: Callable[[str], str],
        book: Book,
        observer: Observer,
        struck: Callable[[], tuple[str, str]],
    ) -> None:
        """`dsn` returns the libpq URL of the database of a service; `struck` says what was broken so far, and last."""
        self._place, self._dsn = place, dsn
        self._book, self._observer, self._struck = book, observer, struck
        self._connections: dict[str, psycopg.Connection[Any]] = {}
        self._found: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="running balance", daemon=True)
        self._verdict: tuple[str, str] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            connection.close()

    def _stop(self) -> None:
        self._stopping.set()
        self._thread.join(LOOK_SECONDS_MAX)

    def end(self, sheet: Sheet) -> None:
        """Show what the balance sheet says, and give whoever watches the time to see it."""
        wrong = sum(not row.ok for row in sheet.rows)
        told = f"It balances: {sum(1 for _ in sheet.rows)} comparisons, none differs"
        self._verdict = ("bad", f"{wrong} comparisons differ: see the balance sheet") if wrong else ("ok", told)
        self._stop()
        self._renew()
        time.sleep(SHOWN_SECONDS)

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            began = time.monotonic()
            with suppress(OSError):  # the folder may go before we do
                self._renew()
            pause = max(SECONDS, PAUSE_FACTOR * (time.monotonic() - began))

    def _renew(self) -> None:
        state, words = self._verdict or (None, "processes are killed and frozen while it grows")
        content = {
            "title": "The balance",
            "state": state,
            "words": words,
            "rows": self._rows(),
            "note": "Sums, a moment old. When all is drained, the balance sheet compares every order, event, shelf, "
            "account and booking.",
        }
        new = self._place.with_suffix(".new")
        new.write_text(json.dumps(content))
        new.replace(self._place)

    def _rows(self) -> list[Fact]:
        # What is known outside first: the tables, read after it, have that and perhaps more.
        promised = list(self._book.accepted)
        received, deposited = (sum(told.copy().values()) for told in (self._book.received, self._book.deposited))
        reads = self._observer.error is None
        events = sum(self._observer.counts.copy().values()) if reads else None
        lost = self._lost(promised)
        states = self._ask("order", STATES)
        struck, last = self._struck()
        return [
            {"what": "struck so far", "value": struck, "note": last},
            _fact("orders promised", len(promised), "customers were told so"),
            _fact("of them lost", lost, "promised, and not in the table", must_be_zero=True),
            _orders(states),
            _fact("events published", events, "as a reader of the topics sees them"),
            _fact("of them doubled", self._observer.doubled if reads else None, "read once more", must_be_zero=True),
            _stock(self._ask("inventory", STOCK), received),
            _money(self._ask("payment", MONEY), deposited),
        ]

    def _lost(self, promised: list[str]) -> int | None:
        """Count the orders that were promised and are not there; None if that is not known."""
        new = [order for order in promised if order not in self._found][:CHECKED_AT_ONCE]
        rows = self._ask("order", FOUND, ids=new) if new else []
        if rows is None:
            return None
        self._found.update(order for (order,) in rows)
        return len(new) - len(rows)

    def _ask(self, service: str, query: str, **parameters: object) -> list[tuple[Any, ...]] | None:
        """Return all rows of a query with a small answer; None if there is no answer."""
        try:
            connection = self._connections.get(service)
            if connection is None or connection.closed:
                connection = self._connections[service] = psycopg.connect(
                    self._dsn(service),
                    autocommit=True,
                    connect_timeout=CONNECT_SECONDS,
                    options=f"-c statement_timeout={STATEMENT_MS} -c default_transaction_read_only=on",
                    application_name="running balance",
                )
            return connection.execute(query.encode(), parameters or None).fetchall()
        except psycopg.Error:
            return None


def so_far(struck: Sequence[Struck]) -> tuple[str, str]:
    """Say how many processes were killed and frozen, and which was the last."""
    hits = [one for one in struck if one.hit]
    kills, freezes = (sum(one.blow.kind == kind for one in hits) for kind in ("kill", "freeze"))
    last = f"last: {hits[-1].blow.victim}, {time.monotonic() - hits[-1].at:.0f} s ago" if hits else "nothing yet"
    return f"{kills} killed, {freezes} frozen", last


def _fact(what: str, number: int | None, note: str, *, must_be_zero: bool = False) -> Fact:
    state = ("bad" if number else "ok") if must_be_zero and number is not None else None
    return {"what": what, "value": None if number is None else f"{number:,}", "note": note, "state": state}


def _orders(states: list[tuple[Any, ...]] | None) -> Fact:
    if states is None:
        return _fact("orders confirmed", None, "")
    found: Mapping[str, int] = dict(states)
    confirmed, rejected, cancelled = (found.get(state, 0) for state in FINAL)
    on_their_way = sum(found.values()) - confirmed - rejected - cancelled
    note = f"{rejected:,} rejected, {cancelled:,} cancelled, {on_their_way:,} on their way"
    return _fact("orders confirmed", confirmed, note)


def _stock(rows: list[tuple[Any, ...]] | None, received: int) -> Fact:
    if rows is None or None in rows[0]:
        return _fact("pieces sold", None, "")
    there, available, reserved, sold = map(int, rows[0])
    astray = available + reserved + sold - there
    note = f"{reserved:,} more are reserved; none of {there:,} is astray"
    if astray or there < received:
        note = f"put in {received:,}, on record {there:,}, by what became of them {there + astray:,}"
    return {"what": "pieces sold", "value": f"{sold:,}", "note": note, "state": "bad" if "put in" in note else "ok"}


def _money(rows: list[tuple[Any, ...]] | None, deposited: int) -> Fact:
    if rows is None:
        return _fact("money earned", None, "")
    sides = {side: int(amount) for side, amount in rows}
    paid_in, astray = -sides.get("cash", 0), sum(sides.values())
    note = f"{_coins(sides.get('held', 0))} more is held; no cent is astray"
    if astray or paid_in < deposited:
        note = f"paid in {_coins(deposited)}, on record {_coins(paid_in)}, astray {_coins(astray)}"
    state = "bad" if "paid in" in note else "ok"
    return {"what": "money earned", "value": _coins(sides.get("merchant", 0)), "note": note, "state": state}


def _coins(minor: int) -> str:
    return f"{minor / 100:,.2f}"
