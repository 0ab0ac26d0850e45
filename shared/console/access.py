"""Who may look, and who may act.

The tokens are those of the API (`shared.http.tokens`), with scopes of the console's own. A browser sends its token
once, in a form; from then on a signed cookie names the token, which no script can read and no other site's page can
send. The key of the signature lives as long as the process.
"""

import hmac
import secrets
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import ClientDisconnect, Request

from ..configuration.program import program
from ..errors import Misconfigured
from ..http.tokens import Callers, Token
from ..settings import Settings

LOOK = "console:read"
"""The scope for everything that only shows."""

LASTS_SECONDS = 8 * 3_600
"""A shift: after that, the token has to be given again."""
BODY_BYTES_MAX = 64_000
"""Of a form: a reason in any script, which is spelled with up to twelve bytes for each character, and what it is about.
"""
EDITED_BYTES_MAX = 1_500_000
"""Of a form with an edited value: 100,000 characters of JSON, indented, each spelled with up to six bytes."""
FIELDS_MAX = 50
LOGINS_PER_MINUTE_MAX = 30
"""From all browsers together. A token has 256 random bits; this only keeps guessing from being noise in the log."""

HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with `no-referrer`, a browser does not say where a form comes from
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that is not answered with what it asks for."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Visitor(NamedTuple):
    """Who asks."""

    name: str
    scopes: frozenset[str]
    everything: bool
    """Whether no token is needed, with API_AUTH=off."""
    csrf: str

    def may(self, scope: str) -> bool:
        """Whether this is allowed."""
        return self.everything or scope in self.scopes


class Door:
    """Lets visitors in."""

    def __init__(self, settings: Settings, service: str) -> None:
        """Raises `Misconfigured` if nobody could look."""
        self._open = settings.api_auth == "off"
        self._callers = Callers(settings, service)
        self._logins: list[float] = []
        self._ended: dict[str, float] = {}
        """Logins that were ended before their time, and when that would have been: a copied cookie would go on. There
        are no more of them than logins in a shift, which are limited.
        """
        if not self._open and LOOK not in self._callers.scopes:
            raise Misconfigured(
                f"API_TOKENS: none has the scope {LOOK}, so nobody could look at the console. Make one with "
                f"`{program(service)} token NAME {LOOK}`"
            )

    def visitor(self, request: Request) -> Visitor | None:
        """Return who asks; None if nobody that is known."""
        session = request.session
        if self._open:
            session.setdefault("csrf", secrets.token_urlsafe(16))
            return Visitor("anonymous", frozenset(), everything=True, csrf=session["csrf"])
        token = self._callers.by_digest(str(session.get("token", "")))
        if token is None or LOOK not in token.scopes or time.time() > float(session.get("until", 0)):
            return None
        if session.get("id") in self._ended:
            return None
        return Visitor(token.name, token.scopes, everything=False, csrf=str(session.get("csrf", "")))

    def log_in(self, request: Request, given: str) -> None:
        """Take a token that was typed into the form. Raises `Refused`."""
        now = time.monotonic()
        self._logins = [at for at in self._logins if now - at < 60]
        if len(self._logins) >= LOGINS_PER_MINUTE_MAX:
            raise Refused(429, "Too many tries in this minute. Wait a moment, then try again.")
        self._logins.append(now)
        token: Token | None = self._callers.of_token(given.strip())
        if token is None:
            raise Refused(401, "This token is unknown.")
        if LOOK not in token.scopes:
            raise Refused(403, f"This token does not have the scope {LOOK}.")
        self.log_out(request)
        request.session.update(
            id=secrets.token_urlsafe(16),
            token=token.digest.hex(),
            until=time.time() + LASTS_SECONDS,
            csrf=secrets.token_urlsafe(16),
        )

    def log_out(self, request: Request) -> None:
        """End this login, whoever has a copy of its cookie."""
        now, session = time.time(), request.session
        self._ended = {login: until for login, until in self._ended.items() if until > now}
        if "id" in session:
            self._ended[session["id"]] = session["until"]
        session.clear()


async def form(request: Request, visitor: Visitor | None, most: int = BODY_BYTES_MAX) -> dict[str, str]:
    """Return the fields of a form that this site's own page has sent. Raises `Refused`."""
    refuse_other_sites(request)
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise Refused(413, f"The form has more than {most:,} bytes: shorten what you have typed.")
    except ClientDisconnect:
        raise Refused(400, "The form has broken off. Nothing was done.") from None
    # A browser writes every end of a line so.
    fields = {name: value.replace("\r\n", "\n") for name, value in spelled(body).items()}
    if visitor is not None and not hmac.compare_digest(fields.pop("csrf", "").encode(), visitor.csrf.encode()):
        raise Refused(403, "This form is from another login: go back, load the page again, and repeat what you did.")
    return fields


def spelled(written: bytes | bytearray | str) -> dict[str, str]:
    """Return fields as a form spells them. Raises `Refused`.

    A page's own fields are spelled so twice: a browser changes the ends of lines in a value, and what is not printable
    would come back as the escape that a page shows.
    """
    try:
        text = written if isinstance(written, str) else written.decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict"))
    except ValueError:
        raise Refused(400, "This is not a form that the console has sent.") from None


def refuse_other_sites(request: Request) -> None:
    """Refuse what another site's page has sent. Raises `Refused`."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    try:
        elsewhere = origin is not None and urlsplit(origin).netloc != request.headers.get("host", "")
    except ValueError:  # it is no address
        elsewhere = True
    if elsewhere or site not in ("same-origin", "none"):
        raise Refused(403, "Another site's page has sent this. Nothing was done.")


def names(settings: Settings, host: str) -> list[str]:
    """Return the names under which browsers may ask: another one is that of a page that has rebound its DNS."""
    given = [name.strip() for name in settings.console_names.split(",") if name.strip()]
    if any("*" in name or "/" in name or " " in name for name in given):
        raise Misconfigured(
            "CONSOLE_NAMES: write names alone, separated by commas, such as console.example.com; no scheme, path or *"
        )
    return [*LOOPBACK, *given, *([] if host in ("0.0.0.0", "::", "") else [host])]  # noqa: S104 - compared, not bound


LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


def refuse_open_to_all(settings: Settings) -> None:
    """Refuse to let everybody on the network act. Raises `Misconfigured`."""
    if settings.api_auth == "off" and settings.console_host not in LOOPBACK:
        raise Misconfigured(
            f"CONSOLE_HOST={settings.console_host[:100]} with API_AUTH=off: everybody who reaches it could redrive, "
            "dismiss and cancel. Use tokens (API_AUTH=on), or listen on 127.0.0.1"
        )


def facts(request: Request, *wanted: str) -> Mapping[str, str]:
    """Return what an address asks for, each cut to a length that makes sense. Raises `Refused`."""
    found = {name: request.query_params.get(name, "")[:FACT_MAX] for name in wanted}
    if any("\0" in value for value in found.values()):
        raise Refused(400, "This address has a NUL character, which no text in PostgreSQL has.")
    return found


FACT_MAX = 20_000
"""Characters of one field of an address: the longest key in hexadecimal."""
