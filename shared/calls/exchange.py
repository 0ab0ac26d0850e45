"""One attempt: a request is sent, and an answer comes within its time and its size, or a reason why not.

Nothing is followed, remembered or decompressed: no redirect, no cookie, no proxy of the environment, and
`Accept-Encoding: identity`, so that a small body cannot become a large one.
"""

import asyncio
import json
import ssl
from typing import Any
from urllib.parse import quote

import httpx

from .. import trace_context
from ..errors import Misconfigured
from .declaration import TOKEN, Answer, Destination, Request, RequestRefused
from .queue import Due
from .settling import NoAnswer

NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Failures before the first byte of the request: the destination has not got it."""


class Exchange:
    """The connections to one destination. All of it runs on one event loop."""

    def __init__(self, destination: Destination, settings: Any) -> None:
        """Raise `Misconfigured` if the settings give no usable URL, header or certificate."""
        self._destination = destination
        self._url = _url(destination, settings)
        self._headers = _headers(destination, settings)
        url = httpx.URL(self._url)
        self.server = (url.host, url.port or (443 if url.scheme == "https" else 80))
        """Host and port that are asked."""
        # It sends: a client would read the place that a redirect names, and fails if it makes no sense.
        self._transport = httpx.AsyncHTTPTransport(
            verify=_tls(destination, settings),
            trust_env=False,
            limits=httpx.Limits(max_connections=destination.concurrency, keepalive_expiry=5.0),
        )
        self._client = httpx.AsyncClient(
            transport=self._transport,
            timeout=httpx.Timeout(destination.seconds, connect=destination.connect_seconds),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def ask(self, due: Due, request: Request) -> Answer:
        """Send `request`; return the answer. Raises `NoAnswer`, or what is wrong with the request itself."""
        content = request.content
        headers = {**self._headers, **request.headers}
        if request.json is not None:
            content = json.dumps(request.json, allow_nan=False).encode()
            headers.setdefault("Content-Type", "application/json")
        headers["Idempotency-Key"] = quote(due.call_id, safe="!#$%&'()*+,-./:;<=>?@[]^_`{|}~")
        headers["Accept-Encoding"] = "identity"
        headers |= dict(trace_context.of_text(due.traceparent).without_baggage().headers())
        built = self._client.build_request(request.method, self._url + request.path, headers=headers, content=content)
        try:
            async with asyncio.timeout(self._destination.seconds):
                return await self._exchanged(built)
        except NOT_SENT as error:
            raise NoAnswer(_words(error), sent=False) from error
        except TimeoutError as error:
            raise NoAnswer(f"no whole answer within {self._destination.seconds:g} s", sent=True) from error
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol) as error:
            raise RequestRefused(_words(error)) from error
        except Exception as error:  # httpx's own, and what it lets through, such as an alert of TLS
            raise NoAnswer(_words(error), sent=True) from error

    async def _exchanged(self, built: httpx.Request) -> Answer:
        response = await self._transport.handle_async_request(built)
        body, most = bytearray(), self._destination.answer_bytes_max
        cut = False
        try:
            async for part in response.aiter_raw():
                body += part
                if len(body) > most:
                    cut = True
                    break
        finally:
            await response.aclose()  # one that is not read to its end closes its connection
        headers: dict[str, str] = {}
        for name, value in response.headers.multi_items():
            headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
        return Answer(response.status_code, headers, bytes(body[:most]), cut)


def refuse_wrong_settings(destination: Destination, settings: Any) -> None:
    """Raise `Misconfigured` if the settings give no usable URL, header or certificate."""
    _url(destination, settings)
    _headers(destination, settings)
    _tls(destination, settings)


def _words(error: Exception) -> str:
    """Say what happened; httpx leaves some messages empty."""
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
        url = httpx.URL(given)
        port = 443 if url.port is None else url.port
        nowhere = not url.host
    except (httpx.InvalidURL, ValueError) as error:  # a host that is no domain is a ValueError
        raise Misconfigured(f"the URL of destination {destination.name} cannot be read: {error}") from None
    if not 0 < port < 65_536:
        raise Misconfigured(f"the URL of destination {destination.name}: there is no port {port}")
    if url.scheme not in ("http", "https") or nowhere or url.query or url.fragment or url.userinfo:
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
