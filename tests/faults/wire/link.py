"""One connection through the proxy: a client, a server, and the fate of all traffic between them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from tests.faults.wire.kafka import KafkaRequest, KafkaTalk, topic_of
from tests.faults.wire.parting import Garbage, Part, Passage
from tests.faults.wire.postgres import PostgresTalk
from tests.faults.wire.rules import Deed, Rule

READ_BYTES = 65_536
LATE_SECONDS_MAX = 10.0
"""Bounds the answer to a late request. Everything is on this machine, which may be busy."""

log = logging.getLogger("tests.wire")

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

HELD = frozenset({Deed.HOLD, Deed.HOLD_AND_CUT})
REQUEST_LOST = frozenset({Deed.DROP_REQUEST, Deed.CUT_BEFORE, Deed.BLACKHOLE})
REPLY_LOST = frozenset({Deed.DROP_REPLY, Deed.CUT_AFTER, Deed.BLACKHOLE_AFTER})


class Network(Protocol):
    """The state that all connections share."""

    @property
    def dark(self) -> bool:
        """Everything is lost."""

    def meet(self, request: Part) -> Rule | None:
        """Return the rule that a request meets."""

    def note(self, link: "Link", request: Part, deed: Deed) -> None:
        """Note the fate of a request."""

    def refuse(self, link: "Link", why: str) -> None:
        """Note that a connection is closed for its data."""

    def fail(self, error: Exception) -> None:
        """Note a defect of the test."""


class Link:
    """One connection."""

    def __init__(
        self, number: int, network: Network, talk: KafkaTalk | PostgresTalk, client: Stream, server: Stream
    ) -> None:
        self.number = number
        self.dark = False
        """Something was lost here, so nothing may follow."""
        self._cut = False
        self._network = network
        self._talk = talk
        self._from_client, self._to_client = client
        self._from_server, self._to_server = server

    async def run(self) -> None:
        """Serve it to its end. The server learns that a client left, unless a request of it is held or everything is
        lost.
        """
        answers = asyncio.create_task(self._guarded(self._answers))
        try:
            await self._guarded(self._requests)
            if self.dark:
                await answers
        finally:
            self.cut()
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            for writer in (self._to_client, self._to_server):
                with suppress(OSError):
                    await writer.wait_closed()

    def cut(self) -> None:
        """Close both ends."""
        self._cut = True
        self._to_client.close()
        self._to_server.close()

    async def _guarded(self, direction: Callable[[], Awaitable[None]]) -> None:
        """Run one direction; a failure ends this connection at most."""
        try:
            await direction()
        except OSError:
            pass
        except Garbage as garbage:
            self._network.refuse(self, str(garbage))
            self.cut()
        except Exception as error:  # noqa: BLE001 - the test learns of it at the end
            self._network.fail(error)
            self.cut()

    async def _requests(self) -> None:
        while data := await self._from_client.read(READ_BYTES):
            for request in self._talk.requests(data):
                if not self._cut:
                    await self._request(request)

    async def _request(self, request: Part) -> None:
        rule = self._network.meet(request)
        self.dark = self.dark or self._network.dark
        deed = Deed.BLACKHOLE if self.dark else rule.deed if rule else Deed.PASS  # what is lost can only be lost
        self._network.note(self, request, deed)
        if deed is Deed.BLACKHOLE:
            self.dark = True
        elif deed is Deed.CUT_BEFORE:
            self.cut()
        elif deed in HELD and rule:
            if deed is Deed.HOLD_AND_CUT:
                self._to_client.close()
            rule.done()
            await rule.released()
        if deed not in REQUEST_LOST:
            passage = Passage(request, rule, reply_lost=deed in REPLY_LOST)
            if deed is Deed.REFUSE:
                assert isinstance(request, KafkaRequest)
                assert request.api == "Produce"
                passage.misspelled = topic_of(request)
            await self._deliver(passage)
            if deed is Deed.DUPLICATE:
                await self._deliver(Passage(request, rule, reply_lost=True))
            elif deed is Deed.BLACKHOLE_AFTER:
                self.dark = True
            elif deed in HELD:
                # A client that has left is read to its end next, and then the server is told.
                with suppress(TimeoutError):
                    await asyncio.wait_for(passage.answered.wait(), LATE_SECONDS_MAX)
        if rule and deed not in HELD:
            rule.done()

    async def _deliver(self, passage: Passage) -> None:
        self._talk.sent(passage)
        at, topic = passage.misspelled
        data = passage.request.data
        self._to_server.write(data[:at] + topic[::-1] + data[at + len(topic) :])
        await self._to_server.drain()

    async def _answers(self) -> None:
        try:
            while data := await self._from_server.read(READ_BYTES):
                kept, cut = self._kept(data)
                self.dark = self.dark or self._network.dark
                if kept and not self.dark:
                    # A client that has left does not end this: what comes late is answered too.
                    with suppress(OSError):
                        self._to_client.write(kept)
                        await self._to_client.drain()
                if cut:
                    self.cut()
        finally:
            if not self.dark:
                self._to_client.close()

    def _kept(self, data: bytes) -> tuple[bytes, bool]:
        """Return what the client gets of `data`, and whether it is then cut off."""
        kept, cut = [], False
        for message, passage, whole in self._talk.replies(data):
            if passage is None:
                kept.append(message)
                continue
            if not passage.reply_lost:
                _, topic = passage.misspelled
                kept.append(message.replace(topic[::-1], topic))
            if passage.rule:
                passage.rule.reply += message
                cut = cut or (whole and passage.rule.deed is Deed.CUT_AFTER)
            if whole:
                passage.answered.set()
                if passage.rule:
                    passage.rule.answered.set()
        return b"".join(kept), cut
