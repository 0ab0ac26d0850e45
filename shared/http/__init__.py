"""The HTTP side of a service: the same answers, limits and keys for every API. A worker imports none of it."""

from typing import TYPE_CHECKING, Never

from .answers import Created
from .bodies import RequestBody, ResponseBody
from .listing import After, Limit
from .problems import Problem, documented
from .router import Router
from .transaction import Transaction

__all__ = [
    "After",
    "Created",
    "Limit",
    "Problem",
    "RequestBody",
    "ResponseBody",
    "Router",
    "Transaction",
    "documented",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Never:
        if name in {"Answer", "Calling", "Route"}:
            raise ImportError(
                f"{name} is gone: an endpoint of a `Router` takes `session: Transaction` and returns its body, or "
                f"Created(body) (docs/upgrading.md)"
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
