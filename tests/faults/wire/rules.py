"""Rules: what the proxy does, and with which request."""

import asyncio
import threading
from collections.abc import Callable
from enum import Enum

from shared.testing import SECONDS_MAX
from tests.faults.wire.kafka import KafkaRequest
from tests.faults.wire.parting import Part
from tests.faults.wire.postgres import PostgresRequest

When = Callable[[Part], bool]


class Deed(Enum):
    """The fate of a request."""

    PASS = "passed"
    HOLD = "held"
    """The request and what follows on its connection wait for `Rule.release`. The server learns only afterwards that
    the client left: so a request comes late.
    """
    HOLD_AND_CUT = "held, and its client cut off"
    """As HOLD, but the client's connection is closed at once."""
    DROP_REQUEST = "lost"
    DROP_REPLY = "delivered, its reply lost"
    DUPLICATE = "delivered twice"
    REFUSE = "refused, to be sent again"
    """A Produce arrives with its topic's name spelled backwards, which the broker does not know. The client gets its
    UNKNOWN_TOPIC_OR_PART for the right name, as a broker answers that is about to become the partition's leader.
    """
    CUT_BEFORE = "cut off before it arrived"
    """Its connection is closed."""
    CUT_AFTER = "delivered, then cut off instead of the reply"
    """The server's answer is awaited: the request took effect."""
    BLACKHOLE = "lost with all that follows on its connection"
    """Both ways, while both ends stay open: neither learns that the other one left."""
    BLACKHOLE_AFTER = "delivered; its reply lost with all that follows"


class Rule:
    """One deed, done once: with the n-th request, from when the rule is given, for which `when` holds."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        when: When,
        deed: Deed,
        *,
        nth: int,
        hold_seconds: float | None,
        call: Callable[[], object] | None,
    ) -> None:
        self._loop = loop
        self._when = when
        self._left = nth
        self._released = asyncio.Event()
        self.deed = deed
        self._hold_seconds = hold_seconds
        self._call = call
        self.request: Part | None = None
        self.reply = b""
        """The server's answer, even if undelivered."""
        self.happened = threading.Event()
        self.answered = threading.Event()
        """Set when the server has answered."""

    def meets(self, request: Part) -> bool:
        """Count `request`; return whether it is the one."""
        if self._left == 0 or not self._when(request):
            return False
        self._left -= 1
        if self._left == 0:
            self.request = request
        return self._left == 0

    def done(self) -> None:
        """Note that it happened."""
        if self._call is not None:
            self._call()
        self.happened.set()

    def withdrawn(self) -> bool:
        """Withdraw the rule; return False if it has met its request already."""

        async def withdraw() -> None:
            self._left = 0

        asyncio.run_coroutine_threadsafe(withdraw(), self._loop).result(SECONDS_MAX)
        return self.request is None

    def release(self) -> None:
        """Deliver what is held."""
        self._loop.call_soon_threadsafe(self._released.set)

    async def released(self) -> None:
        """Wait for `release`, or until `hold_seconds` are over."""
        try:
            await asyncio.wait_for(self._released.wait(), self._hold_seconds)
        except TimeoutError:
            self._released.set()

    def wait(self) -> None:
        """Wait until it has happened."""
        assert self.happened.wait(SECONDS_MAX), f"what shall be {self.deed.value} did not come"

    def wait_answer(self) -> bytes:
        """Wait until the server has answered; return its reply."""
        assert self.answered.wait(SECONDS_MAX), f"{self.request and self.request.name} was not answered"
        return self.reply


def any_request(_: Part) -> bool:
    """Match every request."""
    return True


def api(*names: str) -> When:
    """Match requests of these APIs; `EndTxn(commit)` and `EndTxn(abort)` are names too."""
    return lambda request: isinstance(request, KafkaRequest) and (request.api in names or request.name in names)


def statement(text: str) -> When:
    """Match a request with `text` in a statement."""
    return lambda request: isinstance(request, PostgresRequest) and any(text in sent for sent in request.statements)


def commit_of(statement: str) -> When:
    """Match the COMMIT of a transaction that had such a statement."""
    return lambda request: (
        isinstance(request, PostgresRequest)
        and request.statements == ("COMMIT",)
        and any(statement in before for before in request.before)
    )
