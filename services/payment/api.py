"""The payment service's HTTP API."""

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.dialects.postgresql import insert
from uuid_utils import uuid7

from services.payment.models import Account, Entry
from shared.http.call import ApiResponse, CurrentCall, Route
from shared.http.problems import Problem, documented
from shared.session import Session

router = APIRouter(route_class=Route, tags=["accounts"])

AccountId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217")]
BALANCE_MAX = 1_000_000_000_000_000
"""Below 2^53, so that every JSON reader gives the same number. A refund may exceed it; a deposit may not."""


class OpenAccount(BaseModel):
    """The currency of an account, for ever."""

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra={"example": {"currency": "EUR"}})

    currency: Currency


class Deposit(BaseModel):
    """Money that comes from outside."""

    model_config = ConfigDict(
        strict=True, extra="forbid", json_schema_extra={"example": {"amount": 10000, "currency": "EUR"}}
    )

    amount: Annotated[int, Field(ge=1, le=1_000_000_000_000, description="minor units")]
    currency: Currency


class AccountResponse(BaseModel):
    """An account as it stands."""

    id: str
    currency: str
    balance: Annotated[int, Field(description="minor units")]


@router.put(
    "/accounts/{account_id}",
    responses={201: {"model": AccountResponse, "description": "Created"}, **documented(409, 415)},
)
def open_account(account_id: AccountId, body: OpenAccount, call: CurrentCall, response: Response) -> AccountResponse:
    """Open an account; opening it again changes nothing. 409 when it has another currency."""
    new = insert(Account).values(id=account_id, currency=body.currency, balance=0)
    with call.transaction() as session:
        created = session.execute(new.on_conflict_do_nothing().returning(Account.id)).scalar_one_or_none()
        account = _lock(session, account_id)
        if account.currency != body.currency:
            raise Problem(409, f"account {account_id} is in {account.currency} and stays so")
        response.status_code = 201 if created else 200
        return _response(account)


@router.post(
    "/accounts/{account_id}/deposits",
    status_code=201,
    response_model=AccountResponse,
    responses=documented(400, 404, 409, 415),
)
def deposit(account_id: AccountId, body: Deposit, call: CurrentCall) -> Response:
    """Put money into an account; 422 when its currency is another one."""

    def work(session: Session) -> ApiResponse:
        account = _lock(session, account_id)
        if account.currency != body.currency:
            raise Problem(
                422, f"account {account_id} is in {account.currency}, not in {body.currency}", kind="wrong-currency"
            )
        if account.balance + body.amount > BALANCE_MAX:
            raise Problem(409, f"account {account_id} cannot hold more than {BALANCE_MAX}")
        account.balance += body.amount
        posting = f"deposit:{uuid7()}"
        customer = Entry(
            posting=posting, side="customer", account=account_id, amount=body.amount, currency=body.currency
        )
        cash = Entry(posting=posting, side="cash", amount=-body.amount, currency=body.currency)
        session.add_all((customer, cash))
        return ApiResponse(201, _response(account))

    return call.once(work)


@router.get("/accounts/{account_id}", responses=documented(404))
def get_account(account_id: AccountId, call: CurrentCall) -> AccountResponse:
    """Return one account."""
    with call.transaction() as session:
        account = session.get(Account, account_id)
        if account is None:
            raise Problem(404, f"there is no account {account_id}")
        return _response(account)


def _lock(session: Session, account_id: str) -> Account:
    account = session.lock(Account, account_id)
    if account is None:
        raise Problem(404, f"there is no account {account_id}")
    return account


def _response(account: Account) -> AccountResponse:
    return AccountResponse(id=account.id, currency=account.currency, balance=account.balance)
