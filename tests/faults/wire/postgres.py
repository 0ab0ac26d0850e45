"""PostgreSQL's framing, read as far as a test needs it: the statements of a request, and where its answer ends.

A client sends `Query`, or `Parse`, `Bind`, `Execute` and so on up to a `Sync`; either is one request here, and is
answered up to one `ReadyForQuery`. See https://www.postgresql.org/docs/current/protocol-flow.html.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.faults.wire.parting import Garbage, Part, Passage

MESSAGE_BYTES_MAX = 16_000_000
"""Far above what any test sends, and far below a length that is really four letters of another protocol."""

STARTUP = "startup"
STARTUP_VERSION = 3
CANCEL = "cancel"
CANCEL_CODE = 80877102
"""Replaces a startup message. Two questions for encryption may too; our clients are told not to ask."""

LAST = frozenset(b"QSHFpXdcf")
"""After these a client waits for an answer, or for none: what it has written is one request."""
ANSWERED = frozenset(b"QSF")
"""Messages answered up to a ReadyForQuery."""


@dataclass(frozen=True, eq=False)
class PostgresRequest(Part):
    """One request."""

    kinds: str
    """The types of its messages; startup and cancel have none."""
    statements: tuple[str, ...]
    """Its statements, also those that were prepared before, with single spaces."""
    before: tuple[str, ...]
    """The statements since the last BEGIN, COMMIT or ROLLBACK on this connection."""

    @property
    def name(self) -> str:
        """Its statements, or what it is made of."""
        return "; ".join(self.statements) or self.kinds


class Messages:
    """Puts messages together from the network's pieces. A client's first message has no type."""

    def __init__(self, *, nameless: bool) -> None:
        self.nameless = nameless
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Return the messages that `data` completes. Raises `Garbage`."""
        self._bytes += data
        while len(self._bytes) >= (start := 0 if self.nameless else 1) + 4:
            length = int.from_bytes(self._bytes[start : start + 4], signed=True)
            if not 4 <= length <= MESSAGE_BYTES_MAX:
                raise Garbage(f"a message of {length} bytes; it has 4 to {MESSAGE_BYTES_MAX}")
            if len(self._bytes) < start + length:
                return
            message = bytes(self._bytes[: start + length])
            del self._bytes[: start + length]
            yield message


@dataclass
class PostgresTalk:
    """The traffic of one connection, both ways."""

    _asked: Messages = field(default_factory=lambda: Messages(nameless=True))
    _answered: Messages = field(default_factory=lambda: Messages(nameless=False))
    _prepared: dict[str, str] = field(default_factory=dict)
    _portals: dict[str, str] = field(default_factory=dict)
    _part: list[bytes] = field(default_factory=list)
    _statements: list[str] = field(default_factory=list)
    _before: list[str] = field(default_factory=list)
    _waiting: deque[Passage] = field(default_factory=deque)

    def requests(self, data: bytes) -> Iterator[PostgresRequest]:
        """Return the requests that `data` completes. Raises `Garbage`."""
        for message in self._asked.feed(data):
            if self._asked.nameless:
                yield self._nameless(message)
                continue
            self._part.append(message)
            self._read(chr(message[0]), message[5:])
            if message[0] in LAST:
                yield self._complete()

    def _nameless(self, message: bytes) -> PostgresRequest:
        if len(message) < 8:
            raise Garbage(f"a first message of {len(message)} bytes")
        code = int.from_bytes(message[4:8])
        if code == CANCEL_CODE:
            return PostgresRequest(message, CANCEL, (), ())
        if code >> 16 != STARTUP_VERSION:
            raise Garbage(f"a first message with code {code}")
        self._asked.nameless = False
        return PostgresRequest(message, STARTUP, (), ())

    def _read(self, kind: str, body: bytes) -> None:
        """Note the statements of a message."""
        match kind, [text.decode(errors="replace") for text in body.split(b"\0")[:3]]:
            case "Q", [text, *_]:
                self._statements.append(" ".join(text.split()))
            case "P", [name, text, *_]:
                self._prepared[name] = " ".join(text.split())
            case "B", [portal, name, *_]:
                self._portals[portal] = self._prepared.get(name, f"prepared {name}")
            case "E", [portal, *_]:
                self._statements.append(self._portals.get(portal, f"portal {portal}"))
            case _:
                pass

    def _complete(self) -> PostgresRequest:
        kinds = "".join(chr(message[0]) for message in self._part)
        made = PostgresRequest(b"".join(self._part), kinds, tuple(self._statements), tuple(self._before))
        for statement in self._statements:
            if statement.split(" ")[0].upper().rstrip(";") in {"BEGIN", "COMMIT", "ROLLBACK"}:
                self._before.clear()
            else:
                self._before.append(statement)
        self._part.clear()
        self._statements.clear()
        return made

    def sent(self, passage: Passage) -> None:
        """Expect a reply to a request that was passed on, if it has one."""
        request = passage.request
        assert isinstance(request, PostgresRequest)
        if request.kinds == STARTUP or (request.kinds != CANCEL and ord(request.kinds[-1]) in ANSWERED):
            self._waiting.append(passage)

    def replies(self, data: bytes) -> Iterator[tuple[bytes, Passage | None, bool]]:
        """Return the messages that `data` completes, the passage that each answers (None: the server speaks unasked),
        and whether it is the last.
        """
        for message in self._answered.feed(data):
            passage = self._waiting[0] if self._waiting else None
            ready = message[:1] == b"Z"
            if ready and passage is not None:
                self._waiting.popleft()
            yield message, passage, ready
