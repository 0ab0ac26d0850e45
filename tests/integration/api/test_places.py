"""A locked row holds up the requests that want it, and no others."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from shared.http import places
from shared.testing.api import Api

AT_ONCE = 60


@pytest.fixture
def accounts_of(accounts: Api, name: str) -> Callable[[], tuple[str, str]]:
    def make() -> tuple[str, str]:
        for account in (f"{name}-hot", f"{name}-cold"):
            assert accounts.put(f"/accounts/{account}", json={"currency": "EUR"}).status_code == 201
        return f"{name}-hot", f"{name}-cold"

    return make


def test_one_hot_row_leaves_places_for_others(accounts: Api, accounts_of: Callable[[], tuple[str, str]]) -> None:
    hot, cold = accounts_of()
    body = {"amount": 1, "currency": "EUR"}

    def deposit(account: str) -> httpx.Response:
        return accounts.post(f"/accounts/{account}/deposits", json=body)

    with ThreadPoolExecutor(AT_ONCE) as pool, accounts.locked("account", hot):
        waiting = [pool.submit(deposit, hot) for _ in range(AT_ONCE)]
        for _ in range(3):
            assert accounts.get(f"/accounts/{cold}").status_code == 200
            assert deposit(cold).status_code == 201
        still = sum(not future.done() for future in waiting)
        assert accounts.get("/health/ready").status_code == 200
    answers = {future.result().status_code for future in waiting}

    assert still > AT_ONCE // 2, "the others were answered only after those who wait for the row"
    assert answers <= {201, 503}
    assert 201 in answers


def test_too_many_for_one_row_are_refused_at_once(
    accounts: Api, accounts_of: Callable[[], tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "WAITING_MAX", 2)
    hot, cold = accounts_of()
    body = {"amount": 1, "currency": "EUR"}

    with ThreadPoolExecutor(10) as pool, accounts.locked("account", hot):
        waiting = [pool.submit(accounts.post, f"/accounts/{hot}/deposits", json=body) for _ in range(10)]
        crowded = [answer for future in waiting if "wait for this already" in (answer := future.result()).text]
        assert accounts.post(f"/accounts/{cold}/deposits", json=body).status_code == 201

    assert crowded
    assert {(answer.status_code, answer.headers["Retry-After"]) for answer in crowded} == {(503, "2")}
