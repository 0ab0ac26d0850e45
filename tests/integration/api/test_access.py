"""An API limits who may call it, for what, how often and for how long."""

import gc
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from dependency_injector import providers

from services.order.container import OrderContainer
from shared.errors import Misconfigured
from shared.http import tokens
from shared.settings import Settings
from shared.testing.api import Api, served
from tests.integration.api.test_problems import problem

ORDER = {"account": "ada", "lines": [{"sku": "tea", "quantity": 1}]}
WRITES, READS, OTHER, AGAIN = (
    tokens.make(name, scopes)
    for name, scopes in (
        ("shop", ["orders:read", "orders:write"]),
        ("board", ["orders:read"]),
        ("clerk", ["orders:write", "stock:write"]),
        ("shop", ["orders:write"]),
    )
)


def bearer(token: tuple[str, str], **more: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {token[0]}", **more}}


@pytest.fixture(scope="module")
def guarded(settings: Settings, serve: Callable[[Any, Settings], Api]) -> Api:
    entries = "\n".join(entry for _, entry in (WRITES, READS, OTHER, AGAIN))
    update = {"api_auth": "on", "api_tokens": type(settings.api_tokens)(entries)}
    return serve(OrderContainer, settings.model_copy(update=update))


def test_a_token_permits_what_its_scopes_say(guarded: Api) -> None:
    placed = guarded.post("/orders", json=ORDER, **bearer(WRITES))
    assert placed.status_code == 201
    assert guarded.get(placed.headers["location"], **bearer(READS)).status_code == 200
    refused = guarded.post("/orders", json=ORDER, **bearer(READS))
    assert problem(refused, 403)["type"] == "urn:problem:not-permitted"
    assert refused.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="orders:write"'
    problem(guarded.get("/orders", **bearer(OTHER)), 403)


@pytest.mark.parametrize(
    ("authorization", "challenge"),
    [
        (None, "Bearer"),
        ("Bearer", 'Bearer error="invalid_token"'),
        ("Bearer wrong", 'Bearer error="invalid_token"'),
        (f"Bearer {WRITES[1]}", 'Bearer error="invalid_token"'),
        (f"Basic {WRITES[0]}", 'Bearer error="invalid_token"'),
        (f"Bearer {WRITES[0]}x", 'Bearer error="invalid_token"'),
    ],
    ids=["none", "empty", "wrong", "the entry", "another scheme", "one letter more"],
)
def test_whoever_is_not_known_is_told_what_is_needed(guarded: Api, authorization: str | None, challenge: str) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for answer in (guarded.get("/orders", headers=headers), guarded.post("/orders", json=ORDER, headers=headers)):
        assert problem(answer, 401)["type"] == "urn:problem:not-authenticated"
        assert answer.headers["www-authenticate"] == challenge
        assert WRITES[0] not in answer.text


def test_who_is_refused_is_not_asked_for_more(guarded: Api) -> None:
    """The token comes first: a stranger's key and body are not read."""
    problem(guarded.request("POST", "/orders", content=b"[", headers={"Content-Type": "text/plain"}), 401)


def test_health_and_metrics_need_no_token(guarded: Api) -> None:
    for path in ("/health/live", "/health/ready", "/metrics", "/openapi.json"):
        assert guarded.get(path).status_code == 200


def test_an_idempotency_key_belongs_to_the_caller_and_not_to_the_token(guarded: Api, name: str) -> None:
    first = guarded.post("/orders", json=ORDER, **bearer(WRITES, **{"Idempotency-Key": name}))
    replaced = guarded.post("/orders", json=ORDER, **bearer(AGAIN, **{"Idempotency-Key": name}))
    stranger = guarded.post("/orders", json=ORDER, **bearer(OTHER, **{"Idempotency-Key": name}))
    assert (first.status_code, replaced.status_code, stranger.status_code) == (201, 201, 201)
    assert first.json()["id"] == replaced.json()["id"] != stranger.json()["id"]
    scopes = {scope for (scope,) in guarded.sql("SELECT scope FROM exactly_once_idempotency_key WHERE key = %s", name)}
    assert scopes == {"shop POST /orders", "clerk POST /orders"}


def test_the_description_tells_what_each_operation_needs(guarded: Api) -> None:
    schema = guarded.get("/openapi.json").json()
    assert schema["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    assert schema["paths"]["/orders"]["post"]["security"] == [{"token": ["orders:write"]}]
    assert schema["paths"]["/orders/{order_id}"]["get"]["security"] == [{"token": ["orders:read"]}]
    assert "security" not in schema["paths"]["/health/ready"]["get"]
    assert {"401", "403", "429"} <= schema["paths"]["/orders"]["post"]["responses"].keys()


def test_an_api_that_nobody_could_call_does_not_start(settings: Settings) -> None:
    container = OrderContainer()
    container.settings.override(providers.Object(settings.model_copy(update={"api_auth": "on"})))
    with pytest.raises(Misconfigured, match=r"API_TOKENS: without a token .*services.order token NAME SCOPE"):
        container.application()


def test_one_caller_does_not_take_the_share_of_another(
    settings: Settings, serve: Callable[[Any, Settings], Api]
) -> None:
    """A caller without a token is counted by address, so guessing tokens is limited too."""
    update = {
        "api_auth": "on",
        "api_tokens": type(settings.api_tokens)(f"{READS[1]} {WRITES[1]}"),
        "http_requests_per_second_max": 0.001,
    }
    api = serve(OrderContainer, settings.model_copy(update=update))
    assert api.get("/orders", **bearer(READS)).status_code == 200
    limited = api.get("/orders", **bearer(READS))
    assert problem(limited, 429)["type"] == "urn:problem:too-many-requests"
    assert int(limited.headers["retry-after"]) > 0
    assert api.get("/orders", **bearer(WRITES)).status_code == 200
    problem(api.get("/orders"), 401)
    problem(api.get("/orders", headers={"Authorization": "Bearer guess"}), 429)
    assert api.get("/health/ready").status_code == 200


def test_a_request_that_takes_too_long_is_answered_and_may_be_repeated(
    orders: Api, settings: Settings, serve: Callable[[Any, Settings], Api], name: str
) -> None:
    """Another transaction holds its key for too long. The answer says to try again; then it is carried out once."""
    api = serve(OrderContainer, settings.model_copy(update={"http_request_seconds_max": 0.2}))
    placed = orders.post("/orders", json=ORDER).json()["id"]
    key = {"Idempotency-Key": name}
    with psycopg.connect(api.dsn) as connection:
        connection.execute("SELECT FROM orders WHERE id = %s FOR UPDATE", (placed,))
        late = api.post(f"/orders/{placed}/cancel", headers=key)
        connection.rollback()
    assert problem(late, 503)["detail"].startswith("this took too long")
    assert int(late.headers["retry-after"]) > 0
    again = orders.post(f"/orders/{placed}/cancel", headers=key)
    assert (again.status_code, again.json()["state"]) == (200, "CANCELLED")
    assert api.sql("SELECT count(*) FROM exactly_once_outbox WHERE key = %s", placed) == [(2,)]


def test_a_request_that_was_given_up_has_ended_when_its_api_has(settings: Settings, orders: Api, name: str) -> None:
    """Otherwise its connection would return to a pool that is never closed, and another test would find it open."""
    placed = orders.post("/orders", json=ORDER).json()["id"]
    before = open_connections()
    hasty = settings.model_copy(update={"http_request_seconds_max": 0.2})
    with orders.locked("orders", placed):
        with served(OrderContainer, hasty) as api:
            assert api.post(f"/orders/{placed}/cancel").status_code == 503
        assert len(open_connections() - before) == 1, "the one that holds the lock"


def open_connections() -> set[int]:
    return {id(one) for one in gc.get_objects() if isinstance(one, psycopg.Connection) and not one.closed}
