"""The HTTP side of a service: the same answers, limits and keys for every API. A worker imports none of it."""

from .bodies import RequestBody, ResponseBody
from .call import Created
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
