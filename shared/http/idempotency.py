"""`Idempotency-Key`: a repeated POST gets the first one's answer and has no second effect.

The transaction of the effect stores the key and the answer. A duplicate that arrives while the first request is under
way waits for it at the key's index entry, as long as `lock_timeout` allows.
"""

import hashlib
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, text

from ..errors import ExactlyOnceError
from ..postgres import ahead
from ..postgres.ahead import Statement
from ..session import Session


class KeyReused(ExactlyOnceError):
    """This Idempotency-Key was used with another body or query."""


class RequestKey(NamedTuple):
    """The identity of a request, for detecting its duplicates."""

    scope: str
    """Principal, method and path: two customers may use the same key, and so may two endpoints."""
    key: str
    body: bytes
    query: str = ""


class StoredResponse(msgspec.Struct):
    """An answer that is replayed byte for byte."""

    status: int
    body: msgspec.Raw
    location: str | None = None
    query: str | None = None
    """The hash of the request's query; empty: it had none; None: a version stored it that did not compare queries. It
    is not part of `body_hash`, which processes of that version compare during a rolling upgrade.
    """


_INSERT = text("""
    INSERT INTO exactly_once_idempotency_key (scope, key, body_hash) VALUES (:scope, :key, :hash)
    ON CONFLICT DO NOTHING RETURNING TRUE
""")

_FIND = text("SELECT body_hash, answer FROM exactly_once_idempotency_key WHERE scope = :scope AND key = :key")

_KEEP = text(
    "UPDATE exactly_once_idempotency_key SET status = :status, answer = :answer WHERE scope = :scope AND key = :key"
)


def begin(connection: Connection, request_key: RequestKey) -> StoredResponse | None:
    """Take the key, or return the answer of the request that took it. Raises `KeyReused`."""
    names = {"scope": request_key.scope, "key": request_key.key}
    body_hash = hashlib.sha256(request_key.body).digest()
    # Twice: an old key may be pruned between the two statements.
    for _ in range(2):
        (taken,) = ahead.execute(connection, [Statement(_INSERT, {**names, "hash": body_hash})])
        if taken:
            return None
        row = connection.execute(_FIND, names).one_or_none()
        if row is not None:
            if bytes(row[0]) != body_hash:
                raise KeyReused
            stored = msgspec.json.decode(row[1], type=StoredResponse)
            if stored.query is not None and stored.query != _query_hash(request_key):
                raise KeyReused
            return stored
    raise LookupError(f"idempotency key {request_key.key!r} comes and goes")


def keep(session: Session, request_key: RequestKey, stored: StoredResponse) -> None:
    """Store the answer, with the effect."""
    stored.query = _query_hash(request_key)
    values = {
        "scope": request_key.scope,
        "key": request_key.key,
        "status": stored.status,
        "answer": msgspec.json.encode(stored),
    }
    session.closing.append(Statement(_KEEP, values))


def _query_hash(request_key: RequestKey) -> str:
    return hashlib.sha256(request_key.query.encode()).hexdigest() if request_key.query else ""
