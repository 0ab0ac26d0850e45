"""The settings that the order service alone has."""

from functools import cache
from typing import Annotated

from pydantic import Field

from shared.settings import Settings, load


class OrderSettings(Settings):
    """What the order service alone needs."""

    order_payment_seconds_max: Annotated[
        float, Field(gt=0, le=31_536_000, description="an order that is not decided within this time is rejected")
    ] = 900.0


@cache
def settings() -> OrderSettings:
    """For endpoints and handlers. Read once; the start of the process has refused what is wrong."""
    return load(OrderSettings)
