"""What an endpoint returns: read from its declared type at import, and checked before the commit."""

from types import NoneType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin
from urllib.parse import quote

import msgspec
from fastapi import Response
from fastapi.datastructures import Default, DefaultPlaceholder
from pydantic import PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import to_json

from ..declaration.annotations import members
from .idempotency import StoredResponse

MISSING = object()
"""The declared type of an endpoint that declares none."""

_BODILESS = frozenset({204, 205, 304})
_DEFAULT = Default(None)
_URI = "%/:?#[]@!$&'()*+,;=~"
"""What `quote` leaves as it is: the characters of an address, and what is percent-encoded already."""

Body = TypeVar("Body")


class Created(Generic[Body]):
    """Returned by an endpoint that created something: 201, and where to read it."""

    def __init__(self, body: Body, location: str | None = None) -> None:
        """What a header cannot contain is percent-encoded in `location`; an id with `/`, `?` or `#` must be quoted."""
        self.body = body
        self.location = None if location is None else quote(location, safe=_URI)


class Answers:
    """The answers that one endpoint declares."""

    def __init__(self, declared: Any, given: dict[str, Any], *, stored: bool, of: str) -> None:
        """Read the type that an endpoint declares, and describe body and status in `given`, its OpenAPI description.
        The answer of a POST is `stored`.

        Raises `TypeError` for what cannot be an answer.
        """
        self._of = of
        self._spelled = getattr(declared, "__name__", str(declared)) if isinstance(declared, type) else str(declared)
        if declared is MISSING:
            raise TypeError(
                f"{of} has no return type: write `-> ItemResponse` for its body (a ResponseBody), "
                f"`-> Created[ItemResponse]`, or `-> None`"
            )
        parts = members(declared)
        created = [get_args(one)[0] for one in parts if get_origin(one) is Created]
        plain = [one for one in parts if get_origin(one) is not Created]
        bodies = [one for one in plain if not _is_response(one)]
        self._refuse(plain, given.get("status_code"), stored=stored)
        self._plain = _adapter(bodies, of)
        self._created = _adapter(created, of) if created else self._plain if Any in plain else None
        self._status: int = given.get("status_code") or 200
        self._created_status = self._status if created and not plain and given.get("status_code") else 201
        if isinstance(given.get("response_model", _DEFAULT), DefaultPlaceholder):
            given["response_model"] = _union(bodies if plain else created) if self._status not in _BODILESS else None
        if created and plain:
            given["responses"] = {201: {"model": _union(created), "description": "Created"}, **given["responses"]}
        elif created and given.get("status_code") is None:
            given["status_code"] = 201

    def _refuse(self, plain: list[Any], status: int | None, *, stored: bool) -> None:
        if Created in plain:
            raise TypeError(f"{self._of} returns Created; write which body: `-> Created[ItemResponse]`")
        if stored and any(one is NoneType or one is Any or one is object or _is_response(one) for one in plain):
            raise TypeError(
                f"{self._of} returns {self._spelled}; a POST returns its body (a ResponseBody), or Created[...] of "
                f"one: its answer is stored with its effect"
            )
        if status in _BODILESS and plain != [NoneType]:
            raise TypeError(f"{self._of} returns {self._spelled}, and {status} has no body: write `-> None`")

    def rendered(self, returned: Any) -> StoredResponse | Response:
        """Render what the endpoint returned, inside its transaction: a response of the framework as it is."""
        return returned if isinstance(returned, Response) else self.to_store(returned)

    def to_store(self, returned: Any) -> StoredResponse:
        """Render a body. Raises `TypeError` if it is not what the endpoint declares; that undoes the request."""
        status, location, adapter = self._status, None, self._plain
        if isinstance(returned, Created):
            status, location, adapter = self._created_status, returned.location, self._created
        if adapter is None:
            raise self._other(returned, "")
        try:
            body = adapter.validate_python(returned.body if isinstance(returned, Created) else returned)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            at = "".join(f"{part}: " for part in first["loc"])
            raise self._other(returned, f" ({at}{first['msg']})") from None
        return StoredResponse(status, msgspec.Raw(b"" if status in _BODILESS else to_json(body)), location)

    def _other(self, returned: Any, why: str) -> TypeError:
        return TypeError(f"{self._of} returned a {type(returned).__name__}, and declares {self._spelled}{why}")


def _is_response(one: Any) -> bool:
    return isinstance(one, type) and issubclass(one, Response)


def _union(types: list[Any]) -> Any:
    return Union[tuple(types)] if types else None  # noqa: UP007 - made of a list


def _adapter(types: list[Any], of: str) -> TypeAdapter[Any] | None:
    if not types:
        return None
    try:
        return TypeAdapter(_union(types))
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        named = ", ".join(getattr(one, "__name__", str(one)) for one in types)
        raise TypeError(
            f"{of} returns {named}, which is no body of an answer: declare `class ItemResponse(ResponseBody, "
            f"of=Item)`, and return `ItemResponse.of(row)`"
        ) from error
