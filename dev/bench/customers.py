"""The customers of a system: they order at a given rate, and see when their orders are confirmed."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from confluent_kafka import Message

from dev.balance import Book
from dev.bench.inventory import SILENCE_SECONDS, BenchError
from dev.bench.listener import Listener, header
from dev.bench.load import Load
from dev.bench.run import BEARABLE_SECONDS, BEARABLE_SHARE, Run

LOOK_SECONDS = 0.02


class Customers:
    """Orders at `url`; `topic` is where the order service confirms them. A block reads it."""

    def __init__(self, url: str, bootstrap: str, topic: str) -> None:
        self._url = url
        self._confirmed: dict[str, float] = {}
        self._listener = Listener(bootstrap, topic, self._consume)
        self.book = Book()

    def __enter__(self) -> Self:
        self._listener.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.__exit__(kind, error, trace)

    def order(self, rate: int, seconds: float, *, patient: bool = True, hopeless: bool = False) -> Run:
        """Order at `rate` for `seconds`; return when all accepted orders are confirmed. With `hopeless` a run that
        cannot be borne any more is given up. Raises `BenchError` if nothing is confirmed for a minute.
        """
        load = Load(self._url, rate, seconds, patient=patient, given_up=self._cannot_be_borne if hopeless else _never)
        load.run()
        for order, key in load.keys.items():
            self.book.accept(key, order)
        self.book.unknown |= load.unanswered
        self._wait(load)
        confirmed = {order: at for order in load.due if (at := self._confirmed.get(order)) is not None}
        unanswered = tuple(load.unanswered)
        return Run(rate, load.begin, seconds, load.due, confirmed, load.refused, unanswered, load.unsent, load.late)

    def _cannot_be_borne(self, load: Load) -> bool:
        return cannot_be_borne(load, self._confirmed, time.monotonic())

    def _wait(self, load: Load) -> None:
        open_, moved = list(load.due), time.monotonic()
        while True:
            still = [order for order in open_ if order not in self._confirmed]
            now = time.monotonic()
            if not still:
                return
            if len(still) < len(open_):
                open_, moved = still, now
            elif now - moved > SILENCE_SECONDS:
                raise BenchError(f"{len(still)} orders are not confirmed, and nothing moved for {now - moved:.0f} s")
            time.sleep(LOOK_SECONDS)

    def _consume(self, message: Message, at: float) -> None:
        if header(message, "ce_type").startswith(b"OrderConfirmed"):
            self._confirmed.setdefault((message.key() or b"").decode(), at)


def cannot_be_borne(load: Load, confirmed: Mapping[str, float], now: float) -> bool:
    """Return whether a run that is under way has too many orders that are too late, whatever comes, or one that was
    refused. `confirmed` has the moment of each confirmation.
    """
    if load.refused or load.unanswered:
        return True
    late = sum(now - due > BEARABLE_SECONDS for due in load.open.values())
    late += sum(confirmed.get(order, now) - due > BEARABLE_SECONDS for order, due in load.due.items())
    return late > load.rate * load.seconds * (100 - BEARABLE_SHARE) / 100


def _never(_: Load) -> bool:
    return False
