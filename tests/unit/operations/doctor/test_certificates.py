"""Certificates of real TLS servers: accepted, strange, expired, expiring; of Kafka's kind and of PostgreSQL's."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from shared.operations.doctor import certificates
from shared.operations.doctor.certificates import expiring, expiry_of_file, handshake, identity
from shared.operations.doctor.network import Address
from shared.settings import Settings

NOW = datetime.now(UTC)
AUTHORITY = trustme.CA()


@contextmanager
def serving(*, expires: datetime, postgres: bool = False, tls: bool = True, asks: bool = False) -> Iterator[Address]:
    """Serve TLS handshakes, after PostgreSQL's question for it if it is `postgres`; one that `asks` wants a certificate
    of its clients, and tells so within the handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if asks:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        AUTHORITY.configure_trust(context)
    made = AUTHORITY.issue_cert("127.0.0.1", not_before=NOW - timedelta(days=900), not_after=expires)
    made.configure_cert(context)

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                if postgres:
                    assert connection.recv(8) == certificates._SSL_REQUEST
                    connection.sendall(b"S" if tls else b"N")
                with context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield Address("127.0.0.1", listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def authorities(tmp_path: Path) -> Path:
    AUTHORITY.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path / "ca.pem"


@pytest.fixture
def strangers(tmp_path: Path) -> Path:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    return tmp_path / "other.pem"


SOON = (NOW + timedelta(days=5)).replace(microsecond=0)


@pytest.mark.parametrize("postgres", [False, True])
def test_until_when_it_is_valid(postgres: bool, authorities: Path) -> None:
    with serving(expires=SOON, postgres=postgres) as place:
        assert handshake(place, authorities, postgres=postgres) == (None, SOON)


def test_one_of_a_stranger_is_read_too(strangers: Path) -> None:
    with serving(expires=SOON) as place:
        refusal, expires = handshake(place, strangers)
    assert "unable to get local issuer certificate" in str(refusal)
    assert expires == SOON


def test_one_that_has_expired(authorities: Path) -> None:
    with serving(expires=NOW - timedelta(days=1)) as place:
        refusal, expires = handshake(place, authorities)
    assert refusal == "certificate has expired"
    assert expiring("it", expires, "renew").verdict == "fault"


def test_a_server_without_tls_is_told() -> None:
    with serving(expires=SOON, postgres=True, tls=False) as place, pytest.raises(OSError, match="speaks no TLS"):
        handshake(place, None, postgres=True)


@pytest.mark.parametrize(
    ("until", "verdict"),
    [(None, "unknown"), (NOW - timedelta(days=1), "fault"), (SOON, "warning"), (NOW + timedelta(days=90), "ok")],
)
def test_the_verdicts(until: datetime | None, verdict: str) -> None:
    assert expiring("it", until, "renew").verdict == verdict


def files(folder: Path, expires: datetime) -> Settings:
    """Make a certificate and its key; return settings that name them."""
    made = AUTHORITY.issue_cert("me", not_before=NOW - timedelta(days=900), not_after=expires)
    certificate, key = folder / "me.pem", folder / "me.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    return Settings.model_validate(
        {
            "kafka_bootstrap_servers": "a:1",
            "database_url": "x",
            "kafka_security_protocol": "SSL",
            "kafka_ssl_certificate_location": certificate,
            "kafka_ssl_key_location": key,
        }
    )


def until(settings: Settings) -> datetime | None:
    assert settings.kafka_ssl_certificate_location is not None
    return expiry_of_file(settings.kafka_ssl_certificate_location, identity(settings))


def test_our_own(tmp_path: Path) -> None:
    assert until(files(tmp_path, SOON)) == SOON
    gone = until(files(tmp_path, NOW - timedelta(days=1)))
    assert gone is not None
    assert gone < NOW


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    mixed = files(tmp_path, SOON).model_copy(
        update={"kafka_ssl_key_location": files(other, SOON).kafka_ssl_key_location}
    )
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        until(mixed)


def test_a_server_that_asks_for_ours_gets_it(tmp_path: Path, authorities: Path) -> None:
    settings = files(tmp_path, SOON)
    with serving(expires=SOON, asks=True) as place:
        assert handshake(place, authorities, identity(settings)) == (None, SOON)
        with pytest.raises(ssl.SSLError):
            handshake(place, authorities)
