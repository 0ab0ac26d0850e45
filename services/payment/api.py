"""The payment service's HTTP API."""

from typing import Annotated

from pydantic import Field
from uuid_utils import uuid7

from services.payment.models import Account
from shared import MONEY_MAX, Currency, Id
from shared.http import Created, Problem, RequestBody, ResponseBody, Router, Transaction, documented

router = Router(scope="accounts")


class OpenAccount(RequestBody, example={"currency": "EUR"}):
    """The currency of an account, for ever."""

    currency: Currency


class Deposit(RequestBody, example={"amount": 10000, "currency": "EUR"}):
    """Money that comes from outside."""

    amount: Annotated[int, Field(ge=1, le=1_000_000_000_000, description="minor units")]
    currency: Currency


class AccountResponse(ResponseBody, of=Account):
    """An account as it stands."""

    id: str
    currency: str
    balance: Annotated[int, Field(description="minor units")]


@router.put("/accounts/{account_id}", responses=documented(409))
def open_account(
    account_id: Id, asked: OpenAccount, session: Transaction
) -> AccountResponse | Created[AccountResponse]:
    """Open an account; opening it again changes nothing. 409 when it has another currency."""
    account, created = session.lock_or_add(Account(id=account_id, currency=asked.currency, balance=0))
    if account.currency != asked.currency:
        raise Problem(409, f"account {account_id} is in {account.currency} and stays so")
    return Created(AccountResponse.of(account)) if created else AccountResponse.of(account)


@router.post("/accounts/{account_id}/deposits")
def deposit(account_id: Id, asked: Deposit, session: Transaction) -> Created[AccountResponse]:
    """Put money into an account; 422 when its currency is another one."""
    account = session.lock_or_404(Account, account_id)
    if account.currency != asked.currency:
        detail = f"account {account_id} is in {account.currency}, not in {asked.currency}"
        raise Problem(422, detail, kind="wrong-currency")
    if account.balance + asked.amount > MONEY_MAX:  # a refund may exceed it; a deposit may not
        raise Problem(409, f"account {account_id} cannot hold more than {MONEY_MAX}")
    session.add_all(account.post(asked.amount, f"deposit:{uuid7()}", against="cash"))
    return Created(AccountResponse.of(account))


@router.get("/accounts/{account_id}")
def get_account(account_id: Id, session: Transaction) -> AccountResponse:
    """Return one account."""
    return AccountResponse.of(session.get_or_404(Account, account_id))
