"""Field types that services share, for events, requests and answers.

msgspec checks an event by `Meta`, pydantic a request by `Field`; each type here has both, so that what an API accepts
fits into the resulting events. A service with other limits declares its own type in its `events.py`.
"""

from typing import Annotated

from msgspec import Meta
from pydantic import Field

MONEY_MAX = 1_000_000_000_000_000
"""Below 2^53, so that every JSON reader reads the same number."""

QUANTITY_MAX = 1_000_000

Id = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z"), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")
]
"""The id of an order, an account, a stock item. No character needs quoting in a URL, a log or a shell."""

Uuid = Annotated[
    str,
    Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z"),
    Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"),
]
"""A UUID as text, in small letters."""

Quantity = Annotated[int, Meta(ge=1, le=QUANTITY_MAX), Field(ge=1, le=QUANTITY_MAX)]

Money = Annotated[int, Meta(ge=1, le=MONEY_MAX), Field(ge=1, le=MONEY_MAX, description="minor units")]
"""Whole minor units."""

Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z"), Field(pattern=r"^[A-Z]{3}$", description="ISO 4217")]

Reason = Annotated[str, Meta(min_length=1, max_length=64), Field(min_length=1, max_length=64)]
