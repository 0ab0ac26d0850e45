"""Bearer tokens: a caller's name and scopes (RFC 6750).

Only the SHA-256 of a token is kept. That is enough for a secret of 256 random bits, but would not protect a password
chosen by a person. Two tokens may have the same name, so that one can be replaced without a pause; the name is the
caller to whom an Idempotency-Key belongs.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from starlette.requests import Request

from ..configuration.program import program
from ..errors import Misconfigured
from ..settings import Settings
from .problems import Problem

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SCOPE = re.compile(r"[a-z0-9_-]+:(read|write)")
_HASH = re.compile(r"[0-9a-f]{64}")
_FORM = "must be name:scope,scope:sha256-of-the-token, with blanks or line breaks between them"


class Token(NamedTuple):
    """A token as the API knows it."""

    name: str
    scopes: frozenset[str]
    digest: bytes


def make(name: str, scopes: Sequence[str]) -> tuple[str, str]:
    """Generate a token; return it and its API_TOKENS entry. Raises `Misconfigured` for an invalid name or scope."""
    token = secrets.token_urlsafe(32)
    entry = f"{name}:{','.join(scopes)}:{_digest(token).hex()}"
    parse(entry)
    return token, entry


def parse(text: str) -> tuple[Token, ...]:
    """Parse API_TOKENS. Raises `Misconfigured`, without repeating the text."""
    found = []
    for number, entry in enumerate(text.split(), 1):
        name, _, rest = entry.partition(":")
        scopes, _, digest = rest.rpartition(":")
        if not (_NAME.fullmatch(name) and _HASH.fullmatch(digest) and all(map(_SCOPE.fullmatch, scopes.split(",")))):
            raise Misconfigured(f"API_TOKENS: entry {number} {_FORM}")
        found.append(Token(name, frozenset(scopes.split(",")), bytes.fromhex(digest)))
    return tuple(found)


class Callers:
    """The callers of this API."""

    def __init__(self, settings: Settings, service: str) -> None:
        """Raises `Misconfigured` if there are none."""
        self._open = settings.api_auth == "off"
        self._tokens = parse(settings.api_tokens.get_secret_value())
        if not self._open and not self._tokens:
            raise Misconfigured(
                f"API_TOKENS: without a token no one can call this API. Make one with `{program(service)} token NAME "
                "SCOPE`, or let anyone in with API_AUTH=off"
            )

    def identify(self, request: Request) -> Token | None:
        """Return the request's token; None if it has no known one.

        With API_AUTH=off callers are distinguished by the credentials that they send, valid or not.
        """
        given = request.headers.get("authorization")
        if self._open:
            name = "anonymous" if given is None else hashlib.sha256(given.encode()).hexdigest()[:32]
            return Token(name, frozenset(), b"")
        kind, _, token = (given or "").partition(" ")
        found = self.of_token(token.strip())
        return found if kind.lower() == "bearer" else None

    def of_token(self, token: str) -> Token | None:
        """Return the token of this text; None if it is unknown."""
        return self.by_digest(_digest(token).hex())

    def by_digest(self, digest: str) -> Token | None:
        """Return the token of this digest, in hexadecimal; None if it is unknown."""
        found = None
        for known in self._tokens:  # all of them, each in constant time: the duration reveals nothing
            if hmac.compare_digest(known.digest.hex(), digest):
                found = known
        return found

    @property
    def scopes(self) -> frozenset[str]:
        """All scopes that some caller has."""
        return frozenset(scope for token in self._tokens for scope in token.scopes)

    def admit(self, caller: Token | None, scope: str, *, tried: bool) -> str:
        """Return the caller's name. Raises `Problem`: 401 for an unknown caller, who may have `tried` a token, 403
        without `scope`.
        """
        if caller is None:
            detail = "this token is unknown" if tried else "this needs a token: Authorization: Bearer ..."
            challenge = 'Bearer error="invalid_token"' if tried else "Bearer"
            raise Problem(401, detail, kind="not-authenticated", headers={"WWW-Authenticate": challenge})
        if not self._open and scope not in caller.scopes:
            challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
            detail = f"this token does not have the scope {scope}"
            raise Problem(403, detail, kind="not-permitted", headers={"WWW-Authenticate": challenge})
        return caller.name


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
