"""Compares the system with its clients' book: what they were promised must be there, and nothing else."""

import json
from collections.abc import Mapping

from dev.balance.book import Book
from dev.balance.databases import Databases
from dev.balance.queries import ANSWERS, DEPOSITED, RECEIVED
from dev.balance.rules import Order
from dev.balance.sheet import Offenders, Row, none


class Outside:
    """Notes every order that the order service has."""

    def __init__(self, book: Book, databases: Databases) -> None:
        self._book = book
        self._databases = databases
        self._missing = dict(book.accepted)
        answers = databases.rows("order", ANSWERS, keys=list(book.unknown)) if book.unknown else []
        # A request whose client gave up may have been carried out all the same.
        self._unknown_type = {json.loads(answer)["id"] for (answer,) in answers} - book.accepted.keys()
        self._orders = 0
        self._unasked = Offenders()
        self._not_cancelled = Offenders()

    def note(self, order: Order) -> None:
        """Compare one order with the book."""
        if order.order == "-":
            return
        self._orders += 1
        if self._missing.pop(order.id, None) is None and order.id not in self._unknown_type:
            self._unasked.add(f"{order.id} {order.order}")
        if order.id in self._book.cancelled and order.order != "CANCELLED":
            self._not_cancelled.add(f"{order.id} {order.order}")

    def rows(self) -> list[Row]:
        """Return the rows of the sheet, once every order was noted."""
        gone = Offenders()
        for order_id, key in self._missing.items():
            gone.add(f"{order_id} was the answer to Idempotency-Key {key}")
        contradictions = Offenders(len(self._book.contradictions), self._book.contradictions)
        rows = [
            none("orders accepted over HTTP that are gone", gone, of_orders=True),
            none("requests sent twice that had two answers", contradictions, of_orders=True),
            none("cancellations accepted and not done", self._not_cancelled, of_orders=True),
        ]
        if self._book.complete:
            placed = len(self._book.accepted) + len(self._unknown_type)
            rows.insert(0, Row("orders placed", self._orders, placed))
            rows.append(none("orders that nobody placed", self._unasked, of_orders=True))
        return rows

    def goods(self) -> Row:
        """Compare what was put into stock with what was received."""
        return self._compare("items that received something else", "inventory", RECEIVED, self._book.received)

    def money(self) -> Row:
        """Compare what was paid in with what was deposited."""
        return self._compare("accounts that received something else", "payment", DEPOSITED, self._book.deposited)

    def _compare(self, what: str, service: str, query: str, put_in: Mapping[str, int]) -> Row:
        found = dict(self._databases.rows(service, query))
        wrong = Offenders()
        for name in sorted(put_in.keys() | (found.keys() if self._book.complete else set())):
            if found.get(name, 0) != put_in.get(name, 0):
                wrong.add(f"{name} has {found.get(name, 0)}, put in were {put_in.get(name, 0)}")
        return none(what, wrong)
