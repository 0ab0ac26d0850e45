"""A limited connection whose requests are parsed by httptools, in C. What h11 refuses is refused here too.

httptools parses all that it is given, so several requests may be read before the first is answered; uvicorn queues
them. It knows no largest head. And it takes a proposal to change the protocol (`Upgrade`, which curl and Java's client
may send with their first request) for the change itself: it skips the body, and then parses that as a request.
"""

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .connections import Limited

INCOMPLETE_BYTES_MAX = 16 * 1024
"""Of a head, or of what is between the parts of a body, that is not complete yet. It is h11's limit."""

QUEUED_MAX = 100
"""Requests of one connection that wait for the answer to another. A queued one takes a hundred times its bytes."""


class Refused(httptools.HttpParserError):
    """The request is not valid HTTP, or is more than this serves."""


class Connection(Limited, HttpToolsProtocol):
    """One connection."""

    _answering: Any = None
    """The cycle that runs, or was the last to run. uvicorn's `cycle` is the one that was read last."""
    _incomplete = 0
    """Bytes since the parser last completed something."""
    _completed = False
    _in_head = False
    _refusal: str | None = None
    """Why the bytes behind the last request were refused, and no more are parsed."""

    def working_on(self) -> Any:
        return self._answering

    def take(self, data: bytes) -> None:
        """Parse bytes, unless others before them were refused."""
        self._unset_keepalive_if_required()
        if self._refusal is not None:
            return
        try:
            self._completed = False
            rest: bytes | None = data
            while rest is not None:
                rest = self._parse(rest)
            self._incomplete = 0 if self._completed else self._incomplete + len(data)
            if self._incomplete > INCOMPLETE_BYTES_MAX:
                raise Refused
        except httptools.HttpParserError:
            message = "Invalid HTTP request received."
            self.logger.warning(message)
            self.send_400_response(message)

    def _parse(self, data: bytes) -> bytes | None:
        """Parse `data`; return what is to be parsed again, after a proposal to change the protocol."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as proposed:
            # Nothing was done for this request yet: once more, without the proposal.
            version = self.parser.get_http_version().encode()
            head = [self.parser.get_method(), b" ", self.url, b" HTTP/", version, b"\r\n"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            head += [b"%s: %s\r\n" % one for one in self.headers if one[0] != b"upgrade"]
            return b"".join([*head, b"\r\n", data[proposed.args[0] :]])
        return None

    def on_message_begin(self) -> None:
        """Expect a head."""
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those behind a body are ignored."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin an answer, or queue the request. Raises `Refused`."""
        self._in_head, self._completed = False, True
        self._refuse_invalid()
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def _refuse_invalid(self) -> None:
        """Refuse what the parser does not, and h11 does. Raises `Refused`."""
        names = [name for name, _ in self.headers]
        version = self.parser.get_http_version()
        encodings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if (
            version not in {"1.0", "1.1"}
            or names.count(b"host") > 1
            or (version == "1.1" and b"host" not in names)
            or encodings not in ([], [b"chunked"])
            or self.parser.get_method() == b"CONNECT"  # it changes the protocol
            or len(self.pipeline) >= QUEUED_MAX
        ):
            raise Refused

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        self.work_begins()
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._completed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        self._completed = True
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what was read, after the answers to the complete requests before it."""
        self._refusal = msg
        working = self._answering
        if working is None or working.response_complete:
            super().send_400_response(msg)
        elif not working.more_body:
            if self.pipeline and self.pipeline[0][0].more_body:  # the newest
                self.pipeline.popleft()
        elif working.response_started:
            self.transport.close()
        else:
            super().send_400_response(msg)

    def on_response_complete(self) -> None:
        """Begin the next answer; after the last one, refuse what came behind its request."""
        super().on_response_complete()
        if self._refusal is not None and self._answering.response_complete and not self.transport.is_closing():
            super().send_400_response(self._refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the endpoint at work, which uvicorn does only for the request that was read last."""
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)
