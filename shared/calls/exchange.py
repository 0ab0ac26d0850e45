"""One attempt: a request is sent, and an answer comes within its time and its size, or a reason why not.

Nothing is followed, remembered or decompressed: no redirect, no cookie, no proxy of the environment, and
`Accept-Encoding: identity`, so that a small body cannot become a large one.
"""

import asyncio
import inspect
import json
import select
import ssl
from typing import Any
from urllib.parse import quote

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from .. import trace_context
from ..errors import Misconfigured
from .declaration import TOKEN, Answer, Destination, Request, RequestRefused
from .queue import Due
from .settling import NoAnswer

NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""Failures before the first byte of the request: the destination has not got it. A certificate that is refused is a
`ClientConnectorError`."""

KEPT_SECONDS = 5.0
"""A connection without a request is kept for so long: shorter than servers usually keep it, which close it then, and
would close it on a request."""

LOOKS = inspect.iscoroutinefunction(getattr(aiohttp.TCPConnector, "_get", None))
"""Whether `Connector` can look at connections. If another version of aiohttp hands them out elsewhere, none is kept."""

HEAD_MAX = 131_072
"""Bytes of a line of an answer's head."""


class Connector(aiohttp.TCPConnector):
    """Keeps connections, but none on which something came that nobody has asked for: it would be taken for the answer
    to the next request, and each answer for that of the one after it. aiohttp only looks whether they are open.
    """

    async def _get(self, *given: Any) -> Any:
        while (found := await super()._get(*given)) is not None:
            kept = found.protocol
            if kept is not None and not kept.should_close and not _speaks(kept.transport):
                break
            found.close()
        return found


class Exchange:
    """The connections to one destination. All of it runs on one event loop, the one that makes it."""

    def __init__(self, destination: Destination, settings: Any) -> None:
        """Raise `Misconfigured` if the settings give no usable URL, header or certificate."""
        self._destination = destination
        self._url = _url(destination, settings)
        self._headers = _headers(destination, settings)
        url = URL(self._url)
        self.server = (url.host or "", url.port or 0)
        """Host and port that are asked."""
        self._client = aiohttp.ClientSession(
            connector=Connector(
                limit=destination.concurrency,
                ssl=_tls(destination, settings),
                **({"keepalive_timeout": KEPT_SECONDS} if LOOKS else {"force_close": True}),
            ),
            trace_configs=[_noting_what_is_sent()],
            timeout=aiohttp.ClientTimeout(total=None, connect=destination.connect_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Content-Type",),
            auto_decompress=False,
            trust_env=False,
            max_line_size=HEAD_MAX,
            max_field_size=HEAD_MAX,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def ask(self, due: Due, request: Request) -> Answer:
        """Send `request`; return the answer. Raises `NoAnswer`, or what is wrong with the request itself."""
        content = request.content
        headers = CIMultiDict(self._headers)
        headers.update(request.headers)
        if request.json is not None:
            content = json.dumps(request.json, allow_nan=False).encode()
            headers.setdefault("Content-Type", "application/json")
        headers["Idempotency-Key"] = quote(due.call_id, safe="!#$%&'()*+,-./:;<=>?@[]^_`{|}~")
        headers["Accept-Encoding"] = "identity"
        headers.update(trace_context.of_text(due.traceparent).without_baggage().headers())
        sent: list[bool] = []
        url = URL(self._url + request.path, encoded=True)
        try:
            async with asyncio.timeout(self._destination.seconds):
                return await self._exchanged(request.method, url, headers, content, sent)
        except NOT_SENT as error:  # of a method that may be repeated, it may be the second connection
            raise NoAnswer(_words(error), sent=bool(sent)) from error
        except TimeoutError as error:
            raise NoAnswer(f"no whole answer within {self._destination.seconds:g} s", sent=True) from error
        except aiohttp.InvalidURL as error:
            raise RequestRefused(_words(error)) from error
        except Exception as error:  # aiohttp's own, and what it lets through, such as an alert of TLS
            raise NoAnswer(_words(error), sent=True) from error

    async def _exchanged(
        self, method: str, url: URL, headers: CIMultiDict[str], content: bytes | None, sent: list[bool]
    ) -> Answer:
        body, most = bytearray(), self._destination.answer_bytes_max
        cut = False
        async with self._client.request(
            method, url, headers=headers, data=content, allow_redirects=False, trace_request_ctx=sent
        ) as response:
            async for part in response.content.iter_any():
                body += part
                if len(body) > most:
                    cut = True
                    response.close()  # what is not read to its end closes its connection
                    break
        found: dict[str, str] = {}
        for given, raw in response.headers.items():
            name, value = given.lower(), raw.encode(errors="surrogateescape").decode(errors="replace")
            found[name] = f"{found[name]}, {value}" if name in found else value
        return Answer(response.status, found, bytes(body[:most]), cut)


def _speaks(transport: Any) -> bool:
    """Whether something has come on a connection, or its end, that was not read yet."""
    found = transport and transport.get_extra_info("socket")
    if found is None:
        return True
    waits = select.poll()
    waits.register(found.fileno(), select.POLLIN)
    return bool(waits.poll(0))


def _noting_what_is_sent() -> aiohttp.TraceConfig:
    """Note in the request's own list when its head was sent."""

    async def note(_session: aiohttp.ClientSession, context: Any, _sent: Any) -> None:
        context.trace_request_ctx.append(True)

    found = aiohttp.TraceConfig()
    found.on_request_headers_sent.append(note)
    return found


def refuse_wrong_settings(destination: Destination, settings: Any) -> None:
    """Raise `Misconfigured` if the settings give no usable URL, header or certificate."""
    _url(destination, settings)
    _headers(destination, settings)
    _tls(destination, settings)


def _words(error: Exception) -> str:
    """Say what happened; some messages are empty."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _given(destination: Destination, name: str, settings: Any) -> Any:
    try:
        return getattr(destination, name)(settings)
    except Exception as error:
        raise Misconfigured(
            f"the {name} of destination {destination.name} cannot be had from the settings: "
            f"{type(error).__name__}: {error}"
        ) from error


def _url(destination: Destination, settings: Any) -> str:
    given = str(_given(destination, "url", settings))
    try:
        url = URL(given)
        port = 443 if url.port is None else url.port
        nowhere = not url.host
        if "xn--" in (url.raw_host or ""):
            (url.raw_host or "").encode().decode("idna")
    except ValueError as error:  # a host that is no domain too
        raise Misconfigured(f"the URL of destination {destination.name} cannot be read: {error}") from None
    if port == 0:
        raise Misconfigured(f"the URL of destination {destination.name} cannot be read: there is no port 0")
    if url.scheme not in ("http", "https") or nowhere or url.query_string or url.fragment or url.user or url.password:
        raise Misconfigured(
            f"the URL of destination {destination.name} is not of the form https://host/path: it has no query and no "
            "password; what is secret goes into `headers`"
        )
    return str(url).rstrip("/")


def _headers(destination: Destination, settings: Any) -> dict[str, str]:
    found = dict(_given(destination, "headers", settings))
    for name, value in found.items():
        if not TOKEN.fullmatch(str(name)):
            raise Misconfigured(f"destination {destination.name}: {str(name)[:100]!r} is not the name of a header")
        # The value may be a secret.
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or value != value.strip():
            raise Misconfigured(f"destination {destination.name}: the header {name} is not printable ASCII")
    return found


def _tls(destination: Destination, settings: Any) -> ssl.SSLContext | bool:
    ca = _given(destination, "ca", settings)
    if ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(
            f"destination {destination.name}: its authorities in {ca} cannot be read: {error}"
        ) from None
