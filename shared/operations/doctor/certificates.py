"""Certificates of servers, and our own: whether they are accepted, and until when they are valid.

Of the standard library only a connection reads a certificate, once it trusts it. So one is asked for, then trusted, and
asked for again.
"""

import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, TypeVar

from ...settings import Settings
from .case import Case
from .findings import Finding, fault, ok, unknown, warning
from .network import CONNECT_SECONDS, Address
from .sections import KAFKA_USER

EXPIRES_SOON = timedelta(days=21)
"""Time to get a new certificate, and to restart what uses it."""

STEPS_MAX = 20
"""Messages of a handshake in memory; one takes four."""

HANDSHAKE_SECONDS = 6.0
"""The first handshake of a broker after its start may take seconds."""

X509_V_ERR_CERT_HAS_EXPIRED = 10
"""OpenSSL's number of it."""

_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""How a client asks PostgreSQL for TLS."""

Seen = TypeVar("Seen")


def own(case: Case) -> Iterator[Finding]:
    """Our own certificate for Kafka: whether its key belongs to it, and until when it is valid."""
    settings, file = case.settings, case.settings.kafka_ssl_certificate_location
    if file is None:
        yield ok("none is set: KAFKA_SSL_CERTIFICATE_LOCATION is empty")
        return
    try:
        until = expiry_of_file(file, identity(settings))
    except (OSError, ValueError) as error:
        yield fault(
            f"KAFKA_SSL_CERTIFICATE_LOCATION, KAFKA_SSL_KEY_LOCATION: {getattr(error, 'reason', None) or error}",
            "the two files must belong together, and KAFKA_SSL_KEY_PASSWORD to the key",
            KAFKA_USER,
        )
        return
    yield expiring(f"the certificate in {file}", until, "get a new one", KAFKA_USER)


def expiring(what: str, until: datetime | None, mend: str, see: str | None = None) -> Finding:
    """Say until when a certificate is valid."""
    if until is None:
        return unknown(
            f"{what} is valid until a time that could not be read", f"`openssl x509 -enddate` tells; {mend}", see
        )
    now = datetime.now(UTC)
    if until <= now:
        return fault(f"{what} has expired", mend, see)
    if until < now + EXPIRES_SOON:
        return warning(f"{what} expires at {until:%Y-%m-%d %H:%M} UTC, in {(until - now).days} days", mend, see)
    return ok(f"{what} is valid until {until:%Y-%m-%d}")


class Handshake(NamedTuple):
    """What a server showed of itself over TLS."""

    refusal: str | None
    """Why its certificate is not accepted; None if it is."""
    expires: datetime | None
    """None if that could not be read."""


Identity = Callable[[ssl.SSLContext], None]
"""Loads what a client shows of itself."""


def anonymous(_: ssl.SSLContext) -> None:
    """Show nothing."""


def identity(settings: Settings) -> Identity:
    """Return what shows our certificate to brokers, if there is one."""

    def load(context: ssl.SSLContext) -> None:
        if settings.kafka_ssl_certificate_location is not None:
            context.load_cert_chain(
                settings.kafka_ssl_certificate_location,
                settings.kafka_ssl_key_location,
                settings.kafka_ssl_key_password.get_secret_value,
            )

    return load


def handshake(
    address: Address, authorities: Path | None, identify: Identity = anonymous, *, postgres: bool = False
) -> Handshake:
    """Look at the certificate of a server, and check it against `authorities`, or those of the system. Raises `OSError`
    if there is no TLS, or a file is wrong.

    An expired or a strange one is looked at as well: it is asked for, and then trusted itself.
    """
    trusting, trusted = _any(), ssl.create_default_context(cafile=authorities)
    for context in (trusting, trusted):
        identify(context)
    raw = _connected(address, trusting, lambda connection: connection.getpeercert(binary_form=True), postgres=postgres)
    expires = None
    with suppress(OSError, ValueError):
        expires = _expiry(
            _only(raw or b"", identify), lambda only: _connected(address, only, _not_after, postgres=postgres)
        )
    try:
        _connected(address, trusted, lambda _: None, postgres=postgres)
    except ssl.SSLError as error:
        return Handshake(getattr(error, "verify_message", None) or error.reason or str(error), expires)
    return Handshake(None, expires)


def expiry_of_file(certificate: Path, identify: Identity) -> datetime | None:
    """Return until when our own certificate is valid; None if that cannot be read. Raises `OSError` for wrong files.

    It is shown to ourselves, in memory.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), _any()
    for context in (server, client):
        identify(context)
    server.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(cadata=_first_of(certificate))
    return _expiry(client, lambda shown: _in_memory(server, shown))


def _any() -> ssl.SSLContext:
    """Trust whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _only(raw: bytes, identify: Identity) -> ssl.SSLContext:
    """Trust one certificate alone, whoever signed it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=raw)
    identify(context)
    return context


def _first_of(certificate: Path) -> str:
    end = "-----END CERTIFICATE-----"
    return certificate.read_text("ascii", "replace").partition(end)[0] + end


def _expiry(context: ssl.SSLContext, ask: Callable[[ssl.SSLContext], datetime | None]) -> datetime | None:
    """Read until when a certificate is valid; a moment that is past if it has expired: when, OpenSSL does not say."""
    try:
        return ask(context)
    except ssl.SSLCertVerificationError as error:
        return datetime.fromtimestamp(0, UTC) if error.verify_code == X509_V_ERR_CERT_HAS_EXPIRED else None


def _not_after(connection: ssl.SSLSocket | ssl.SSLObject) -> datetime | None:
    found: Mapping[str, object] = connection.getpeercert() or {}
    until = found.get("notAfter")
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(until), UTC) if isinstance(until, str) else None


def _connected(
    address: Address, context: ssl.SSLContext, see: Callable[[ssl.SSLSocket], Seen], *, postgres: bool
) -> Seen:
    with socket.create_connection(address, CONNECT_SECONDS) as raw:
        raw.settimeout(HANDSHAKE_SECONDS)
        if postgres:
            raw.sendall(_SSL_REQUEST)
            if raw.recv(1) != b"S":
                raise ConnectionError("the server speaks no TLS")
        with context.wrap_socket(raw, server_hostname=address.host) as connection:
            return see(connection)


def _in_memory(server: ssl.SSLContext, client: ssl.SSLContext) -> datetime | None:
    """Shake hands with ourselves; return until when the client's certificate is valid."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs, ours = server.wrap_bio(there, back, server_side=True), client.wrap_bio(back, there)
    for _ in range(STEPS_MAX):
        with suppress(ssl.SSLWantReadError):
            ours.do_handshake()
        with suppress(ssl.SSLWantReadError):
            theirs.do_handshake()
            return _not_after(theirs)
    return None
