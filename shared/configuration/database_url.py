"""Database URLs: libpq's forms, converted to SQLAlchemy's."""

import re
from pathlib import Path
from urllib.parse import quote, unquote

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from ..errors import Misconfigured

_HOST = re.compile(r"([^:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")

_FILES_OF_LIBPQ = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")


def sqlalchemy_url(setting: str, url: str, service: str) -> str:
    """Return the URL of `setting` for `service`. Raises `Misconfigured`, which names the setting and never the
    password.
    """
    url = url.replace("{service}", service)
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgresql+psycopg", "postgresql", "postgres"):
        raise Misconfigured(f"{setting}: must be a libpq URL that begins with postgresql://")
    url = f"postgresql+psycopg://{_hosts(rest)}"
    try:
        made = make_url(url)
    except (ArgumentError, ValueError):
        # Without the cause, which would repeat the URL with the password.
        raise Misconfigured(
            f"{setting}: cannot be read as a URL; in a user or a password, @ is written as %40 and / as %2F"
        ) from None
    if "/" in (made.database or ""):
        raise Misconfigured(
            f"{setting}: the name of the database has a / in it; the folder of a socket goes behind the name: "
            "postgresql://user@/name?host=/var/run/postgresql"
        )
    for option in _FILES_OF_LIBPQ:
        file = str(made.query.get(option, ""))
        if file and Path(file).exists() and not Path(file).is_file():  # libpq would wait for a pipe
            raise Misconfigured(f"{setting}: {option} must be a file, and {file} is not")
    return url


def _hosts(rest: str) -> str:
    """Convert libpq's forms of hosts, `one:5432,two:5432` and `%2Ffolder%2Fof%2Fa%2Fsocket`, to SQLAlchemy's. Of
    several hosts the writable one is used, unless the URL sets otherwise.
    """
    place, slash, tail = rest.partition("/")
    user, at, hosts = place.rpartition("@")
    if "," not in hosts and not hosts.lower().startswith("%2f"):
        return rest
    # [::1]:5432 contains more colons.
    pairs = [_HOST.fullmatch(host) for host in hosts.split(",")]
    if not all(pairs):
        return rest
    names, ports = zip(*((unquote(pair[1].strip("[]")), pair[2] or "5432") for pair in pairs if pair), strict=True)
    path, _, query = tail.partition("?")
    more = [query] if query else []
    if len(names) > 1 and "target_session_attrs=" not in query:
        more.append("target_session_attrs=read-write")
    more = [f"host={quote(','.join(names))}", f"port={','.join(ports)}", *more]
    return f"{user}{at}{slash}{path}?{'&'.join(more)}"
