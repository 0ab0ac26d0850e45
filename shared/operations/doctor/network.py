"""Names and ports, looked at without a client of Kafka or PostgreSQL, so that it is seen which step fails."""

import socket
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from sqlalchemy import make_url

from ...settings import Settings
from .aside import each
from .findings import Finding, fault, ok, warning

CONNECT_SECONDS = 3.0
"""To resolve a name and open a connection; a server in reach takes milliseconds."""

ALL_SECONDS = 2 * CONNECT_SECONDS
"""For all addresses side by side; a name may resolve to several of which one does not answer."""

SILENT = f"no answer within {CONNECT_SECONDS:g} s; a firewall may drop what is sent there"


class Address(NamedTuple):
    """A host and a port; a host that begins with a slash is the folder of PostgreSQL's socket."""

    host: str
    port: int

    def __str__(self) -> str:
        if self.host.startswith("/"):
            return f"{self.host}/.s.PGSQL.{self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_here(self) -> bool:
        """Whether what is sent there never leaves this machine."""
        return self.host.startswith(("/", "127.")) or self.host in ("localhost", "::1")


def of_kafka(settings: Settings) -> list[Address]:
    """Return the addresses of KAFKA_BOOTSTRAP_SERVERS."""
    found = (one.rpartition(":") for one in settings.kafka_bootstrap_servers.split(","))
    return [Address(host.strip("[]"), int(port)) for host, _, port in found]


def of_postgres(dsn: str) -> list[Address]:
    """Return the hosts of a database URL; nothing if it leaves the choice to libpq."""
    url = make_url(dsn)
    hosts = [url.host] if url.host else _listed(url.query.get("hostaddr") or url.query.get("host"))
    ports = [str(url.port)] if url.port else _listed(url.query.get("port"))
    ports = ports if len(ports) == len(hosts) else (ports or ["5432"])[:1] * len(hosts)
    return [Address(host, int(port)) for host, port in zip(hosts, ports, strict=True) if port.isdecimal()]


def of_url(url: str) -> Address | None:
    """Return where an HTTP URL leads; None if that cannot be read."""
    try:
        found = urlsplit(url)
        port = found.port or {"https": 443, "http": 80}[found.scheme]
    except (ValueError, KeyError):
        return None
    return Address(found.hostname, port) if found.hostname else None


def _listed(found: str | Sequence[str] | None) -> list[str]:
    words = [found] if isinstance(found, str) else list(found or ())
    return [word for each in words for word in each.split(",") if word]


def unreachable(address: Address) -> str:
    """Connect; return why that failed, or nothing."""
    try:
        if address.host.startswith("/"):
            with socket.socket(socket.AF_UNIX) as local:
                local.settimeout(CONNECT_SECONDS)
                local.connect(str(address))
            return ""
        socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        with socket.create_connection(address, CONNECT_SECONDS):
            return ""
    except (socket.gaierror, UnicodeError) as error:  # a name that is too long for DNS cannot be encoded
        return f"the name {address.host[:100]} does not resolve ({getattr(error, 'strerror', None) or error})"
    except TimeoutError:
        return SILENT
    except OSError as error:
        return str(error.strerror or error).lower()


def all_unreachable(addresses: Collection[Address]) -> Mapping[Address, str]:
    """Connect to all of them; return why that failed for each, or nothing."""
    return each(unreachable, set(addresses), ALL_SECONDS, SILENT)


def reached(setting: str, addresses: Collection[Address], server: str) -> Finding:
    """Return whether the addresses of a setting resolve, and take connections."""
    found = all_unreachable(addresses)
    away = [f"{place}: {problem}" for place, problem in sorted(found.items()) if problem]
    mend = f"start {server}, or correct {setting}: host, port, or the firewall between"
    if len(away) == len(found):
        return fault(f"{setting}: {'; '.join(away)}", mend)
    if away:
        return warning(f"{setting}: {'; '.join(away)}; others answer", mend)
    return ok(f"{', '.join(map(str, sorted(found)))} takes connections")
