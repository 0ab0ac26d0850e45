"""Every error answer of the HTTP API is a problem (RFC 9457): it tells the caller what is wrong, and nothing about the
internals.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from ..postgres.blame import is_infrastructure
from ..telemetry import outages

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2
NOT_JSON = "the body is not JSON"
ERRORS_MAX = 10
"""A body can be wrong in a thousand places; the first few are enough."""

WORDS_MAX = 200
"""Characters of a piece of text in an answer. It may come from the request, as an unknown field's name does."""

DETAIL_MAX = 2_000
"""Characters of `detail`."""

_log = structlog.get_logger(__name__)


def shortened(words: str, most: int = WORDS_MAX) -> str:
    """Return `words`, shortened if too long. A lone surrogate, which JSON allows and UTF-8 does not, is spelled out."""
    words = words if len(words) <= most else f"{words[:most]}..."
    return words.encode(errors="backslashreplace").decode()


class Wrong(BaseModel):
    """One wrong place in a request."""

    at: str
    message: str


class ProblemResponse(BaseModel):
    """The body of every error answer, RFC 9457."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "no such order"}
        }
    )

    type: Annotated[str, Field(description="what to match on in code")] = "about:blank"
    title: str
    status: int
    detail: str | None = None
    errors: Annotated[list[Wrong] | None, Field(description="the first wrong places of the request")] = None


class Problem(Exception):
    """An answer that refuses the request. Raising it in an endpoint undoes what the request did so far."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        kind: str | None = None,
        errors: list[Wrong] | None = None,
        retry_seconds: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        detail = shortened(detail, DETAIL_MAX)
        super().__init__(detail)
        self.answer = ProblemResponse(
            type="about:blank" if kind is None else f"urn:problem:{kind}",
            title=HTTPStatus(status).phrase,
            status=status,
            detail=detail,
            errors=errors,
        )
        self.headers = dict(headers or {})
        if retry_seconds is not None:
            self.headers["Retry-After"] = str(retry_seconds)

    def body(self) -> bytes:
        """Return the JSON."""
        return self.answer.model_dump_json(exclude_none=True).encode()

    def response(self) -> Response:
        """Return the answer as a response."""
        return Response(self.body(), self.answer.status, self.headers, MEDIA_TYPE)


def busy(detail: str) -> Problem:
    """The service is unavailable; the request is fine."""
    return Problem(503, detail, retry_seconds=RETRY_SECONDS)


def repeat(method: str) -> str:
    """Return advice for a caller who did not learn the outcome of a request."""
    if method == "POST":
        return "a POST may be repeated safely with the same Idempotency-Key"
    return f"this {method} may be repeated safely" if method in {"GET", "HEAD", "PUT"} else "try again later"


def defect() -> Problem:
    """The service has a bug. The log has the details."""
    return Problem(500, "something went wrong on our side; it is logged")


def of_validation(error: RequestValidationError) -> Problem:
    """Describe where the request is wrong, without repeating its values: they may be secret, or huge."""
    found = error.errors()
    if any(wrong["type"] == "json_invalid" for wrong in found):
        return Problem(400, NOT_JSON, kind="not-json")
    errors = []
    for wrong in found[:ERRORS_MAX]:
        at = ".".join(shortened(str(part)) for part in wrong["loc"])
        errors.append(Wrong(at=shortened(at), message=shortened(str(wrong["msg"]))))
    more = "" if len(found) <= ERRORS_MAX else f"; {len(found) - ERRORS_MAX} more places are wrong"
    detail = "; ".join(f"{wrong.at}: {wrong.message}" for wrong in errors)
    return Problem(422, detail + more, kind="invalid", errors=errors)


def of_database(error: DBAPIError | NoFreeConnection, method: str) -> Problem:
    """Report that the database is unavailable. Raises `error` if it refused a statement: then the service has a bug."""
    state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    words = str(getattr(error, "orig", error)).strip()
    if isinstance(error, DBAPIError) and (
        error.connection_invalidated or (state is None and isinstance(error, OperationalError))
    ):
        outages.DATABASE.missed("requests", words)
    elif isinstance(error, NoFreeConnection) or is_infrastructure(error):
        _log.warning("database_refuses", sqlstate=state, detail=words)
    else:
        raise error
    return busy(f"the database cannot do this now; {repeat(method)}")


def of_http(error: HTTPException, request: Request, routes: Sequence[BaseRoute]) -> Problem:
    """Translate the framework's errors: no such path, no such method."""
    if error.status_code == 400:  # the framework returns it only for an unreadable body
        return Problem(400, NOT_JSON, kind="not-json")
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # The framework names only the methods of the first route with this path.
        same_path = [r for r in routes if isinstance(r, APIRoute) and r.path_regex.match(request.url.path)]
        if same_path:  # not for a path below the prefix of an included router
            headers["Allow"] = ", ".join(sorted({method for route in same_path for method in route.methods or ()}))
    return Problem(error.status_code, str(error.detail), headers=headers)


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Answer every error of `app` with a problem; `routes` are all its routes."""

    async def answer(request: Request, error: Exception) -> Response:
        match error:
            case Problem():
                return error.response()
            case RequestValidationError():
                return of_validation(error).response()
            case DBAPIError() | NoFreeConnection():
                return of_database(error, request.method).response()
            case HTTPException():
                return of_http(error, request, routes).response()
            case _:
                raise error

    for kind in (Problem, RequestValidationError, DBAPIError, NoFreeConnection, HTTPException):
        app.add_exception_handler(kind, answer)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error answers for OpenAPI."""
    return {status: {"model": ProblemResponse, "description": HTTPStatus(status).phrase} for status in statuses}


def describe(operation: dict[str, Any]) -> None:
    """Correct the media type of the error answers in an OpenAPI operation: the framework knows only one for a route."""
    for status, answer in operation["responses"].items():
        if status >= "400":
            (answer["content"],) = ({MEDIA_TYPE: content} for content in answer["content"].values())
