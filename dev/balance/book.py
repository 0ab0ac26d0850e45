"""The clients' view: what they put in, what they asked for, and what they were told.

A client that was answered 201 may rely on it. So only a record of the answers reveals an order that was
accepted and is gone.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Book:
    """Kept by the client that places the orders; `complete` if it placed all of them."""

    accepted: dict[str, str] = field(default_factory=dict)
    """Idempotency-Key of the request that was answered with each order id."""
    cancelled: set[str] = field(default_factory=set)
    """Orders whose cancellation was accepted."""
    unknown: set[str] = field(default_factory=set)
    """Idempotency-Keys of requests that never had an answer: there may be an order, or not."""
    contradictions: list[str] = field(default_factory=list)
    """Requests with one Idempotency-Key that had different answers."""
    received: Counter[str] = field(default_factory=Counter)
    """Pieces put into stock, by SKU."""
    deposited: Counter[str] = field(default_factory=Counter)
    """Minor units paid in, by account."""
    strangers: int = 0
    """Records that the malicious producer has committed."""
    complete: bool = True

    def accept(self, key: str, order_id: str) -> None:
        """Note the answer to the request with the Idempotency-Key `key`."""
        known = self.accepted.setdefault(order_id, key)
        if known != key:
            self.contradictions.append(f"{order_id} is the answer to the keys {known} and {key}")

    def write(self, path: Path) -> None:
        """Keep it as lines of JSON."""
        with path.open("w") as file:
            for line in self._lines():
                file.write(json.dumps(line) + "\n")

    def _lines(self) -> Iterator[dict[str, Any]]:
        yield {"complete": self.complete}
        yield {"strangers": self.strangers}
        for order_id, key in self.accepted.items():
            yield {"order": order_id, "key": key, "cancelled": order_id in self.cancelled}
        yield from ({"unknown": key} for key in self.unknown)
        yield from ({"contradiction": text} for text in self.contradictions)
        yield from ({"sku": sku, "received": quantity} for sku, quantity in self.received.items())
        yield from ({"account": account, "deposited": amount} for account, amount in self.deposited.items())

    @classmethod
    def read(cls, path: Path) -> "Book":
        """Read what `write` wrote."""
        book = cls()
        with path.open() as file:
            for number, text in enumerate(file, start=1):
                match json.loads(text):
                    case {"complete": bool(complete)}:
                        book.complete = complete
                    case {"strangers": int(count)}:
                        book.strangers = count
                    case {"order": str(order_id), "key": str(key), "cancelled": bool(cancelled)}:
                        book.accepted[order_id] = key
                        if cancelled:
                            book.cancelled.add(order_id)
                    case {"unknown": str(key)}:
                        book.unknown.add(key)
                    case {"contradiction": str(what)}:
                        book.contradictions.append(what)
                    case {"sku": str(sku), "received": int(quantity)}:
                        book.received[sku] += quantity
                    case {"account": str(account), "deposited": int(amount)}:
                        book.deposited[account] += amount
                    case _:
                        raise ValueError(f"{path}, line {number}: not a line of a book: {text.strip()[:80]}")
        return book
