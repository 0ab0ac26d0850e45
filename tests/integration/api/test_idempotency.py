"""A repeated POST gets the first answer and has one effect, despite the client and the network."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import psycopg
import pytest

from shared.testing.api import Api

ORDER = {"account": "ada", "lines": [{"sku": "tea", "quantity": 2}]}
DEPOSIT = {"amount": 500, "currency": "EUR"}


def deposit(accounts: Api, account: str, key: str, amount: int = 500) -> httpx.Response:
    return accounts.post(
        f"/accounts/{account}/deposits", json={**DEPOSIT, "amount": amount}, headers={"Idempotency-Key": key}
    )


def balance(accounts: Api, account: str) -> int:
    return int(accounts.get(f"/accounts/{account}").json()["balance"])


@contextmanager
def transaction(api: Api) -> Iterator[psycopg.Connection]:
    """Hold a transaction open beside the service."""
    with psycopg.connect(api.dsn) as connection:
        yield connection


@pytest.fixture
def account(accounts: Api, name: str) -> str:
    assert accounts.put(f"/accounts/{name}", json={"currency": "EUR"}).status_code == 201
    return name


def test_a_repeated_request_gets_the_same_answer_and_has_one_effect(orders: Api, name: str) -> None:
    first, second = (orders.post("/orders", json=ORDER, headers={"Idempotency-Key": name}) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert first.headers["location"] == second.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    order_id = first.json()["id"]
    assert orders.sql("SELECT count(*) FROM exactly_once_outbox WHERE key = %s", order_id) == [(1,)]
    assert orders.sql("SELECT count(*) FROM exactly_once_idempotency_key WHERE key = %s AND status = 201", name) == [
        (1,)
    ]


def test_a_key_stands_for_one_body(accounts: Api, account: str, name: str) -> None:
    assert deposit(accounts, account, name, 500).status_code == 201
    other = deposit(accounts, account, name, 501)
    assert other.status_code == 422
    assert other.json()["type"] == "urn:problem:idempotency-key-reused"
    assert balance(accounts, account) == 500


def test_the_body_counts_byte_by_byte(accounts: Api, account: str, name: str) -> None:
    headers = {"Idempotency-Key": name, "Content-Type": "application/json"}
    for content, status in ((b'{"amount":1,"currency":"EUR"}', 201), (b'{"amount": 1,"currency":"EUR"}', 422)):
        answer = accounts.post(f"/accounts/{account}/deposits", content=content, headers=headers)
        assert answer.status_code == status


@pytest.mark.parametrize("key", ["", "with space", "x" * 256])
def test_a_post_without_a_usable_key_is_refused(orders: Api, key: str) -> None:
    answer = orders.post("/orders", json=ORDER, headers={"Idempotency-Key": key})
    assert answer.status_code == 400
    assert answer.json()["type"] == "urn:problem:idempotency-key-unusable"


def test_a_post_without_a_key_or_with_two_is_refused(orders: Api) -> None:
    for keys in ([], [("Idempotency-Key", "one"), ("Idempotency-Key", "two")]):
        answer = orders.request("POST", "/orders", json=ORDER, headers=keys)
        assert answer.status_code == 400
        assert answer.json()["type"] == "urn:problem:idempotency-key-unusable"


def test_one_key_is_another_for_another_path_or_another_caller(accounts: Api, account: str, name: str) -> None:
    other = f"{name}-2"
    assert accounts.put(f"/accounts/{other}", json={"currency": "EUR"}).status_code == 201
    assert deposit(accounts, account, name).status_code == 201
    assert deposit(accounts, other, name).status_code == 201
    stranger = {"Idempotency-Key": name, "Authorization": "Bearer someone-else"}
    assert accounts.post(f"/accounts/{account}/deposits", json=DEPOSIT, headers=stranger).status_code == 201
    assert (balance(accounts, account), balance(accounts, other)) == (1000, 500)
    assert "someone-else" not in str(accounts.sql("SELECT scope FROM exactly_once_idempotency_key"))


def test_a_refusal_is_kept_like_any_answer(accounts: Api, name: str) -> None:
    first = deposit(accounts, name, name)
    assert first.status_code == 404
    assert accounts.put(f"/accounts/{name}", json={"currency": "EUR"}).status_code == 201
    again = deposit(accounts, name, name)
    assert (again.status_code, again.content) == (404, first.content)
    assert again.headers["content-type"] == "application/problem+json"
    assert again.headers["idempotency-replayed"] == "true"
    assert deposit(accounts, name, f"{name}-new").status_code == 201


def test_a_failure_of_ours_is_not_kept_and_leaves_nothing(accounts: Api, account: str, name: str) -> None:
    accounts.sql("ALTER TABLE entry ADD CONSTRAINT none CHECK (amount <> 777)")
    failed = deposit(accounts, account, name, 777)
    accounts.sql("ALTER TABLE entry DROP CONSTRAINT none")
    assert failed.status_code == 500
    assert balance(accounts, account) == 0
    assert deposit(accounts, account, name, 777).status_code == 201
    assert balance(accounts, account) == 777


def test_concurrent_requests_have_one_effect_and_one_answer(accounts: Api, account: str, name: str) -> None:
    barrier = threading.Barrier(8)

    def duplicate() -> httpx.Response:
        barrier.wait()
        return deposit(accounts, account, name)

    with ThreadPoolExecutor(8) as pool:
        answers = [future.result() for future in [pool.submit(duplicate) for _ in range(8)]]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 7
    assert balance(accounts, account) == 500


def test_a_concurrent_request_does_not_wait_for_ever(accounts: Api, account: str, name: str) -> None:
    """The first stands still after it took the key: the concurrent one is told to come later, and then finds the
    answer.
    """
    scope = f"anonymous POST /accounts/{account}/deposits"
    with transaction(accounts) as connection:
        connection.execute(
            "INSERT INTO exactly_once_idempotency_key (scope, key, body_hash) VALUES (%s, %s, '')", (scope, name)
        )
        duplicate = deposit(accounts, account, name)
        connection.rollback()
    assert duplicate.status_code == 409
    assert duplicate.json()["type"] == "urn:problem:idempotency-key-in-use"
    assert int(duplicate.headers["retry-after"]) > 0
    assert deposit(accounts, account, name).status_code == 201


def test_a_row_that_stays_locked_is_no_answer_to_keep(accounts: Api, account: str, name: str) -> None:
    with transaction(accounts) as connection:
        connection.execute("SELECT FROM account WHERE id = %s FOR UPDATE", (account,))
        busy = deposit(accounts, account, name)
    assert busy.status_code == 503
    assert int(busy.headers["retry-after"]) > 0
    assert deposit(accounts, account, name).status_code == 201


def test_a_refused_concurrent_request_gets_the_answer_of_the_one_that_was_served(
    accounts: Api, account: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A concurrent request may be served before a refusal is stored: then both get the served one's answer."""
    from shared.http.call import Call  # patched in this process, where the API runs too

    accounts.sql("UPDATE account SET currency = 'USD' WHERE id = %s", account)
    begin: Callable[..., object] = Call._begin
    duplicate: list[httpx.Response] = []
    calls: list[object] = []

    def interrupted(self: Call, session: object) -> object:
        calls.append(self)
        if len(calls) == 2:  # the refused request is about to keep its refusal
            accounts.sql("UPDATE account SET currency = 'EUR' WHERE id = %s", account)
            with Api(str(accounts.base_url), accounts.dsn) as other:
                duplicate.append(deposit(other, account, name))
        return begin(self, session)

    monkeypatch.setattr(Call, "_begin", interrupted)
    answer = deposit(accounts, account, name)
    assert (answer.status_code, duplicate[0].status_code) == (201, 201)
    assert answer.content == duplicate[0].content
    assert balance(accounts, account) == 500
