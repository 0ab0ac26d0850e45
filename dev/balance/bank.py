"""Compares the bank's own books with the payment service's ledger: each knows what the other knows, once.

The bank has a booking for each idempotency key. So a capture that was asked for under two keys is there twice.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.request import ProxyHandler, build_opener

from dev.balance.databases import Databases
from dev.balance.queries import TO_BE_BOOKED
from dev.balance.sheet import Offenders, Row, none

ANSWER_SECONDS = 30.0


class Booking(NamedTuple):
    """One line of the books, without the order's id."""

    kind: str
    account: str
    amount: int
    currency: str

    def __str__(self) -> str:
        return f"{self.kind} {self.amount} {self.currency} of {self.account}"


Bookings = Mapping[str, Sequence[Booking]]
"""By order."""


def bookings(bank: str) -> Bookings:
    """Return what the bank has booked; what an order has voided is no capture."""
    with build_opener(ProxyHandler({})).open(f"{bank}/bookings", timeout=ANSWER_SECONDS) as answer:
        lines = json.load(answer)
    voided = {line["order"] for line in lines if line["kind"] == "void"}
    found: defaultdict[str, list[Booking]] = defaultdict(list)
    for line in lines:
        if line["kind"] != "void" and (line["kind"], line["order"] in voided) != ("capture", True):
            found[line["order"]].append(Booking(*(line[name] for name in Booking._fields)))
    return found


def rows(booked: Bookings, databases: Databases) -> list[Row]:
    """Compare them with what our ledger has captured and refunded."""
    ours: defaultdict[str, list[Booking]] = defaultdict(list)
    for order, *entry in databases.rows("payment", TO_BE_BOOKED):
        ours[order].append(Booking(*entry))
    twice, missing, unknown = Offenders(), Offenders(), Offenders()
    for order in sorted(ours.keys() | booked.keys()):
        due, there = Counter(ours.get(order, ())), Counter(booked.get(order, ()))
        for booking in due - there:
            missing.add(f"{order} {booking}")
        for booking in there - due:
            (twice if booking in due else unknown).add(f"{order} {booking}")
    return [
        *(
            Row(f"{kind}s that it has booked", _count(booked, kind), _count(ours, kind))
            for kind in ("capture", "refund")
        ),
        none("bookings that it lacks", missing, of_orders=True),
        none("bookings that it has twice", twice, of_orders=True),
        none("bookings that we do not know", unknown, of_orders=True),
    ]


def _count(found: Bookings, kind: str) -> int:
    return sum(booking.kind == kind for of_order in found.values() for booking in of_order)
