"""The settings that the payment service alone has."""

from typing import Annotated

from pydantic import Field

from shared.settings import Settings


class PaymentSettings(Settings):
    """What the payment service alone needs."""

    payment_bank_url: Annotated[
        str, Field(description="where callers find the bank; `python -m dev.bank` is one that plays it")
    ] = "http://127.0.0.1:8090"
