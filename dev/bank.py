"""`python -m dev.bank`: a bank with books of its own, which honours idempotency keys and fails as a seed says.

    POST /captures  {"order": "o-1", "account": "a-1", "amount": 500, "currency": "EUR"}
    POST /refunds   the same
    POST /voids     the same: no capture of the order counts, not even one that comes later
    GET  /bookings  every booking, in the order of the books
    GET  /faults    how often it has failed, and how

A booking is in the books, on disk, before it is answered. The same `Idempotency-Key` gets the same answer; with another
body it is refused with 422, and with 409 while the first request with it is under way. A capture is refused with 402
if the bank does not want it, and with 410 once its order is voided. Otherwise the bank knows nothing of orders: two
captures of one order under two keys are two bookings, which is what a balance sheet must find.
"""

import argparse
import hashlib
import json
import random
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

KINDS = {"/captures": "capture", "/refunds": "refund", "/voids": "void"}
FIELDS = {"order": str, "account": str, "amount": int, "currency": str}
BODY_BYTES_MAX = 10_000
CLIENT_SECONDS = 30.0
BUSY_SECONDS = 10.0

FAULTS = ("slow", "error", "cut before", "cut after", "in use")
"""It answers late; 500 before it books; the connection is cut before or after it has booked; 409."""
SLOW_SECONDS = 0.5

_TABLE = """
    CREATE TABLE IF NOT EXISTS booking (
        n INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, body_hash TEXT NOT NULL, kind TEXT NOT NULL,
        "order" TEXT NOT NULL, account TEXT NOT NULL, amount INTEGER NOT NULL, currency TEXT NOT NULL
    )
"""


REFUSALS = {
    402: "the bank does not want this customer",
    410: "captures for this order are voided",
    422: "this Idempotency-Key was used for something else",
}


class Booking(NamedTuple):
    """What is in the books."""

    n: int


@dataclass(frozen=True)
class Temper:
    """How the bank fails."""

    seed: int = 0
    share: float = 0.0
    """Of the requests that meet a fault."""
    refused: float = 0.0
    """The share of orders for which it captures nothing."""
    outage_at: float = 0.0
    """Seconds after its start at which it answers nobody, for `outage_seconds`."""
    outage_seconds: float = 0.0

    def fault(self, key: str, n: int) -> str | None:
        """Return what happens to the n-th request with a key: the same in each run with the same seed."""
        chance = random.Random(f"{self.seed}:{key}:{n}")
        return chance.choice(FAULTS) if chance.random() < self.share else None

    def refuses(self, order: str) -> bool:
        """Whether it captures nothing for an order: the same however often it is asked."""
        return random.Random(f"{self.seed}:{order}").random() < self.refused

    def out(self, age: float) -> bool:
        """Whether nobody is answered so long after the start."""
        return self.outage_at <= age < self.outage_at + self.outage_seconds


class Books:
    """The bookings, in a SQLite file. A commit is on disk before it returns."""

    def __init__(self, file: Path) -> None:
        self._file = file
        with closing(self._open()) as books:
            books.execute("PRAGMA journal_mode = WAL")

    def _open(self) -> sqlite3.Connection:
        books = sqlite3.connect(self._file, timeout=BUSY_SECONDS, isolation_level=None)
        books.execute("PRAGMA synchronous = FULL")
        books.execute(_TABLE)  # each time: `make servers-down` may have removed the file
        return books

    def book(self, key: str, kind: str, body: dict[str, Any]) -> Booking | int:
        """Book once for each key; return the booking, or a status: 422 if the key was used for something else, 410 for
        a capture of an order that is voided.
        """
        body_hash = hashlib.sha256(json.dumps([kind, body], sort_keys=True).encode()).hexdigest()
        with closing(self._open()) as books:
            books.execute(
                """
                INSERT INTO booking (key, body_hash, kind, "order", account, amount, currency)
                SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7
                WHERE ?3 <> 'capture' OR NOT EXISTS (SELECT 1 FROM booking WHERE "order" = ?4 AND kind = 'void')
                ON CONFLICT DO NOTHING
                """,
                (key, body_hash, kind, *(body[name] for name in FIELDS)),
            )
            found = books.execute("SELECT n, body_hash FROM booking WHERE key = ?", (key,)).fetchone()
        if found is None:
            return 410
        n, known = found
        return Booking(n) if known == body_hash else 422

    def all(self) -> list[dict[str, Any]]:
        """Return every booking."""
        with closing(self._open()) as books:
            books.row_factory = sqlite3.Row
            found = books.execute('SELECT n, key, kind, "order", account, amount, currency FROM booking ORDER BY n')
            return [dict(row) for row in found]


class Bank(ThreadingHTTPServer):
    """Serves the books."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], books: Books, temper: Temper) -> None:
        super().__init__(address, _Talk)
        self.books, self.temper = books, temper
        self.began = time.monotonic()
        self.seen: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.under_way: set[str] = set()
        self.turn = threading.Lock()

    def book(self, key: str, kind: str, body: dict[str, Any]) -> Booking | int:
        """Return the booking, or the status of a refusal."""
        if kind == "capture" and self.temper.refuses(body["order"]):
            return 402
        return self.books.book(key, kind, body)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that disconnected; that is not our error."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Talk(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = CLIENT_SECONDS
    server: Bank

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        if self.path == "/health/ready":
            self._answer(200, {})
        elif self.path == "/bookings":
            self._answer(200, self.server.books.all())
        elif self.path == "/faults":
            self._answer(200, dict(self.server.faults))
        else:
            self._answer(404, {"detail": f"try {', '.join(KINDS)}"})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            self._answer(413, {"detail": f"a body has a length, of {BODY_BYTES_MAX} bytes at most"})
            return
        body = _body(self.rfile.read(int(length)))
        key, kind = self.headers.get("Idempotency-Key", ""), KINDS.get(self.path)
        if kind is None:
            self._answer(404, {"detail": f"try {', '.join(KINDS)}"})
        elif not 0 < len(key) <= 500 or body is None:
            self._answer(400, {"detail": f"it needs an Idempotency-Key, and {', '.join(FIELDS)} as JSON"})
        else:
            self._serve(key, kind, body)

    def _serve(self, key: str, kind: str, body: dict[str, Any]) -> None:
        bank = self.server
        with bank.turn:
            bank.seen[key] += 1
            fault = bank.temper.fault(key, bank.seen[key])
            if fault is not None:
                bank.faults[fault] += 1
            first = key not in bank.under_way
            bank.under_way.add(key)
        try:
            if bank.temper.out(time.monotonic() - bank.began):
                self._cut()
            elif not first or fault == "in use":
                self._answer(409, {"detail": "a request with this Idempotency-Key is under way"})
            elif fault == "error":
                self._answer(500, {"detail": "the seed says so"})
            elif fault == "cut before":
                self._cut()
            else:
                if fault == "slow":
                    time.sleep(SLOW_SECONDS)
                booked = bank.book(key, kind, body)
                if fault == "cut after":
                    self._cut()
                elif isinstance(booked, Booking):
                    self._answer(201, {"booking": booked.n})
                else:
                    self._answer(booked, {"detail": REFUSALS[booked]})
        finally:
            if first:
                with bank.turn:
                    bank.under_way.discard(key)

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _body(data: bytes) -> dict[str, Any] | None:
    """Return what is to be booked; None if it is not that."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or body.keys() != FIELDS.keys():
        return None
    good = all(type(body[name]) is kind for name, kind in FIELDS.items()) and 0 < body["amount"] < 2**63
    return body if good and all(str(body[name]).isprintable() for name in FIELDS) else None


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m dev.bank", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--books", type=Path, default=Path("bank.sqlite"), help="the file of its books")
    parser.add_argument("--seed", type=int, default=0, help="which requests meet which fault")
    parser.add_argument("--share", type=float, default=0.0, help="of the requests that meet a fault, from 0 to 1")
    parser.add_argument("--refused", type=float, default=0.0, help="of the orders for which it captures nothing")
    parser.add_argument("--outage-at", type=float, default=0.0, help="seconds after the start at which it is away")
    parser.add_argument("--outage-seconds", type=float, default=0.0, help="for how long")
    given = parser.parse_args()
    temper = Temper(given.seed, given.share, given.refused, given.outage_at, given.outage_seconds)
    bank = Bank((given.host, given.port), Books(given.books), temper)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=bank.shutdown).start())
    print(f"the bank answers at http://{given.host}:{bank.server_address[1]}", flush=True)
    bank.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
