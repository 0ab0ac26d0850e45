"""The routes of the inventory and the payment service, against their real databases."""

import pytest

from shared.testing.api import Api


def test_an_item_is_introduced_and_repriced(stock: Api, name: str) -> None:
    first = stock.put(f"/stock/{name}", json={"price": 450, "currency": "EUR"})
    again = stock.put(f"/stock/{name}", json={"price": 500, "currency": "EUR"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == stock.get(f"/stock/{name}").json()
    assert again.json() == {
        "sku": name, "price": 500, "currency": "EUR", "available": 0, "reserved": 0, "sold": 0, "received": 0,
    }  # fmt: skip


def test_what_is_received_is_available(stock: Api, name: str) -> None:
    stock.put(f"/stock/{name}", json={"price": 450, "currency": "EUR"})
    stock.post(f"/stock/{name}/receipts", json={"quantity": 3})
    answer = stock.post(f"/stock/{name}/receipts", json={"quantity": 3})
    assert answer.status_code == 201
    assert (answer.json()["available"], answer.json()["received"]) == (6, 6)


def test_an_item_has_an_end(stock: Api, name: str) -> None:
    stock.put(f"/stock/{name}", json={"price": 450, "currency": "EUR"})
    stock.sql("UPDATE stock SET received = 1000000000000, available = 1000000000000 WHERE sku = %s", name)
    assert stock.post(f"/stock/{name}/receipts", json={"quantity": 1}).status_code == 409


def test_an_item_that_does_not_exist(stock: Api, name: str) -> None:
    assert stock.get(f"/stock/{name}").status_code == 404
    assert stock.post(f"/stock/{name}/receipts", json={"quantity": 3}).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"price": 0, "currency": "EUR"},
        {"price": 1.5, "currency": "EUR"},
        {"price": 10**10, "currency": "EUR"},
        {"price": 1, "currency": "eur"},
        {"price": 1, "currency": "EURO"},
        {"price": 1},
    ],
)
def test_a_price_that_is_none(stock: Api, name: str, body: dict[str, object]) -> None:
    assert stock.put(f"/stock/{name}", json=body).status_code == 422


def test_an_account_is_opened_once_and_keeps_its_currency(accounts: Api, name: str) -> None:
    answers = [accounts.put(f"/accounts/{name}", json={"currency": c}).status_code for c in ("EUR", "EUR", "USD")]
    assert answers == [201, 200, 409]
    assert accounts.get(f"/accounts/{name}").json() == {"id": name, "currency": "EUR", "balance": 0}


def test_a_deposit_is_posted_on_both_sides(accounts: Api, name: str) -> None:
    accounts.put(f"/accounts/{name}", json={"currency": "EUR"})
    answer = accounts.post(f"/accounts/{name}/deposits", json={"amount": 500, "currency": "EUR"})
    assert (answer.status_code, answer.json()["balance"]) == (201, 500)
    entries = accounts.sql(
        "SELECT side, amount FROM entry WHERE posting = (SELECT posting FROM entry WHERE account = %s) ORDER BY side",
        name,
    )
    assert entries == [("cash", -500), ("customer", 500)]


def test_a_deposit_in_another_currency(accounts: Api, name: str) -> None:
    accounts.put(f"/accounts/{name}", json={"currency": "EUR"})
    answer = accounts.post(f"/accounts/{name}/deposits", json={"amount": 500, "currency": "USD"})
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:problem:wrong-currency"


def test_an_account_has_an_end(accounts: Api, name: str) -> None:
    accounts.put(f"/accounts/{name}", json={"currency": "EUR"})
    accounts.sql("UPDATE account SET balance = 1000000000000000 WHERE id = %s", name)
    assert accounts.post(f"/accounts/{name}/deposits", json={"amount": 1, "currency": "EUR"}).status_code == 409


def test_an_account_that_does_not_exist(accounts: Api, name: str) -> None:
    assert accounts.get(f"/accounts/{name}").status_code == 404
    assert accounts.post(f"/accounts/{name}/deposits", json={"amount": 1, "currency": "EUR"}).status_code == 404


@pytest.mark.parametrize("path", ["/accounts/a%20b", "/accounts/a%00b", "/accounts/-a", f"/accounts/{'x' * 65}"])
def test_a_name_that_is_none(accounts: Api, path: str) -> None:
    assert accounts.get(path).status_code == 422
