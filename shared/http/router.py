"""Collects the endpoints of a service: plain functions, whose transaction and idempotency are the router's business.

    router = Router(scope="stock")

    @router.post("/stock/{sku}/receipts")
    def receive_stock(sku: Id, body: ReceiveStock, session: Transaction) -> Created[StockLevel]:
        item = session.lock_or_404(Stock, sku)
        item.available += body.quantity
        return Created(StockLevel.of(item))

A POST runs once for its `Idempotency-Key`: its answer is rendered and stored in the transaction of its effect. Any
other endpoint that takes a `Transaction` runs in one. Raising `Problem` or `Reject` undoes all of it.
"""

import inspect
import re
import secrets
from collections.abc import Callable, Coroutine, Mapping
from functools import partial, wraps
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

from fastapi import APIRouter, Request, Response, params
from fastapi.datastructures import DefaultPlaceholder
from fastapi.routing import APIRoute
from pydantic import AfterValidator
from sqlalchemy.orm import Session as OrmSession
from starlette.requests import ClientDisconnect

from .. import trace_context
from ..declaration.annotations import members
from ..telemetry import log_context
from .answers import MISSING, Answers
from .bodies import storable
from .call import CURRENT, Parts, call_of
from .places import resource
from .problems import NOT_JSON, Problem, documented
from .transaction import Transaction

_KEY = re.compile(r"[\x21-\x7e]{1,255}")

ANONYMOUS = "anonymous"
"""The caller without a token, of an endpoint that needs none."""

KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "New for each intent, the same for each repetition, which gets the first answer again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x21-\x7e]+$"},
    "example": "7d444840-9dc0-11d1-b245-5ffdce74fad2",
}
"""The header in OpenAPI; `Route` checks it before the framework reads anything."""


class Router(APIRouter):
    """Collects the endpoints of a service. A token needs the scope `<scope>:read`, or `<scope>:write` for an endpoint
    that may change data: any but a GET, whose transaction only reads.

    `Router(scope=None)` declares endpoints that anyone may call, without a token. Their callers share the name
    "anonymous", to which an Idempotency-Key belongs; the rate is limited by address.
    """

    def __init__(self, *, scope: str | None, **more: Any) -> None:
        # A class of its own: it stays with a route that another router includes, as the tags do not.
        route_class = type("Route", (Route,), {"scoped": (scope,)})
        super().__init__(route_class=route_class, tags=[scope] if scope is not None else [], **more)


class Route(APIRoute):
    """A route that checks a request's caller and headers before its body is read, and runs its endpoint in the
    request's transaction.
    """

    scoped: ClassVar[tuple[str | None, ...]] = ()
    """What its router's tokens permit; None: anyone may call it."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **given: Any) -> None:
        if not self.scoped:
            raise TypeError(f'{path} is of a route class and not of a `Router`: write `router = Router(scope="stock")`')
        # The framework recreates each route when it includes a router.
        if not hasattr(endpoint, "in_transaction"):
            endpoint = _in_transaction(path, endpoint, given)
        super().__init__(path, endpoint, **given)
        if self.scope is not None:
            self.openapi_extra = {"security": [{"token": [self.scope]}], **(self.openapi_extra or {})}

    @property
    def scope(self) -> str | None:
        """The scope that a token needs; None: no token is needed."""
        (name,) = self.scoped
        return name and f"{name}:{'read' if (self.methods or set()) <= {'GET', 'HEAD'} else 'write'}"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            request.state.caller = _admitted(request, self.scope)
            _check_content_type(request)
            keys = request.headers.getlist("idempotency-key")
            if request.method == "POST" and (len(keys) != 1 or _KEY.fullmatch(keys[0]) is None):
                detail = "every POST needs one Idempotency-Key: 1 to 255 visible ASCII characters, new for each intent"
                raise Problem(400, detail, kind="idempotency-key-unusable")
            request.state.traceparent = _context(request)
            with log_context.bound(partial(_facts, request, keys)):
                return await _placed(request, handle)

        return checked


def _facts(request: Request, keys: list[str]) -> Mapping[str, object]:
    """Identify a request in its endpoint's log lines."""
    return {
        "method": request.method,
        "path": request.scope["path"][: log_context.VALUE_MAX],
        **({"idempotency_key": keys[0][: log_context.VALUE_MAX]} if keys else {}),
        **log_context.trace(request.state.traceparent),
    }


async def _placed(request: Request, handle: Callable[[Request], Coroutine[Any, Any, Response]]) -> Response:
    """Handle a request; if it may change data, in a place from `Places`."""
    try:
        body = await request.body()  # first: a slow sender must hold no place
    except ClientDisconnect as error:
        raise Problem(400, NOT_JSON, kind="not-json") from error
    CURRENT.set(call_of(request, body))
    if request.method in {"GET", "HEAD"}:
        return await handle(request)
    parts: Parts = request.app.state.parts
    async with parts.places.take(resource(request)):
        return await handle(request)


def _admitted(request: Request, scope: str | None) -> str:
    """Return the caller's name. Raises `Problem`."""
    parts: Parts = request.app.state.parts
    caller = parts.callers.identify(request)
    address = request.client.host if request.client else "unknown"
    # A caller without a proven name is counted by address: a freely chosen name would limit nothing.
    parts.rate.take(f"name {caller.name}" if caller and caller.digest else f"address {address}")
    if scope is None:
        return caller.name if caller else ANONYMOUS
    return parts.callers.admit(caller, scope, tried="authorization" in request.headers)


def _check_content_type(request: Request) -> None:
    if request.method not in {"POST", "PUT", "PATCH"}:
        return
    headers = request.headers
    empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not empty and given != "application/json":
        raise Problem(415, "the body must be application/json")
    if headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "the body must be sent as it is, without a Content-Encoding")


def _context(request: Request) -> str | None:
    """Return the trace context that continues here: of the request's span, of its caller, or a new one; with as much of
    the caller's baggage as is taken.
    """
    parts: Parts = request.app.state.parts
    headers = ((name.decode("latin-1"), held) for name, held in request.headers.raw)
    given = trace_context.of_headers(headers, parts.baggage_keys)
    if parts.current_span is not None and (current := parts.current_span()) is not None:
        return trace_context.of_text(current)._replace(baggage=given.baggage).text
    if not given.traceparent:
        made = secrets.token_hex(24)  # at once: each call asks the kernel
        given = given._replace(traceparent=f"00-{made[:32]}-{made[32:]}-01")
    return given.text


def _in_transaction(path: str, endpoint: Callable[..., Any], given: dict[str, Any]) -> Callable[..., Any]:
    """Wrap `endpoint`, and complete its OpenAPI description. Raises `TypeError` for what cannot be an endpoint."""
    of = f"{path}, {getattr(endpoint, '__qualname__', endpoint)!s}"
    hints = _hints(endpoint, of)
    signature = inspect.signature(endpoint)
    methods = {method.upper() for method in given.get("methods") or ("GET",)}
    names = _sessions(signature, hints, of)
    given["responses"] = {**documented(*_refusals(path, methods)), **(given.get("responses") or {})}
    if not names and "POST" not in methods:
        return endpoint
    _refuse_other_functions(endpoint, signature, of)
    model = given.get("response_model")
    declared = hints.get("return", MISSING if model is None or isinstance(model, DefaultPlaceholder) else model)
    answers = Answers(declared, given, stored="POST" in methods, of=of)

    @wraps(endpoint)
    def wrapped(**arguments: Any) -> Response:
        call = CURRENT.get()

        def run(session: Transaction) -> Any:
            return endpoint(**arguments, **dict.fromkeys(names, session))

        if call.method == "POST":
            return call.once(lambda session: answers.to_store(run(session)))
        return call.answer(lambda session: answers.rendered(run(session)), of)

    parameters = [
        one.replace(annotation=_checked(hints.get(name, one.annotation)), kind=inspect.Parameter.KEYWORD_ONLY)
        for name, one in signature.parameters.items()
        if name not in names
    ]
    vars(wrapped).update(__signature__=inspect.Signature(parameters), in_transaction=True)
    return wrapped


def _hints(endpoint: Callable[..., Any], of: str) -> dict[str, Any]:
    try:
        return get_type_hints(endpoint, include_extras=True)
    except (NameError, AttributeError) as error:
        raise TypeError(
            f"{of}: its types cannot be read: {error}. Is it misspelt, or imported only under `if TYPE_CHECKING`?"
        ) from error


def _sessions(signature: inspect.Signature, hints: Mapping[str, Any], of: str) -> list[str]:
    """Return the parameters that take the request's session. Raises `TypeError` for a session of another kind."""
    found = []
    for name, one in signature.parameters.items():
        hint = hints.get(name)
        if isinstance(hint, type) and issubclass(hint, Transaction):
            found.append(name)
        elif not isinstance(one.default, params.Depends) and any(
            isinstance(kind, type) and issubclass(kind, OrmSession) for kind in _kinds(hint)
        ):
            raise TypeError(
                f"{of}: `{name}` is declared as {getattr(hint, '__name__', hint)}; the session of an endpoint is "
                f"`{name}: Transaction`, and is never missing"
            )
    return found


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the types that a parameter may have; none if a dependency of the framework fills it in."""
    if get_origin(hint) is not Annotated:
        return members(hint)
    plain, *metadata = get_args(hint)
    return () if any(isinstance(one, params.Depends) for one in metadata) else members(plain)


def _refuse_other_functions(endpoint: Callable[..., Any], signature: inspect.Signature, of: str) -> None:
    if inspect.iscoroutinefunction(endpoint):
        raise TypeError(f"{of} is async; its transaction is not: write it with `def`, it runs in a thread of its own")
    if inspect.isgeneratorfunction(endpoint) or inspect.isasyncgenfunction(endpoint):
        raise TypeError(f"{of} yields, and would be run after its transaction: return the whole answer")
    for name, one in signature.parameters.items():
        if one.kind not in {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}:
            raise TypeError(
                f"{of}: `{one}` cannot be given by name: write `{name}` as a plain parameter. Does a decorator lack "
                f"`functools.wraps`?"
            )


def _checked(annotation: Any) -> Any:
    """Return the type of a parameter that refuses what no column can hold."""
    return Annotated[Any if annotation is inspect.Parameter.empty else annotation, AfterValidator(storable)]


def _refusals(path: str, methods: set[str]) -> list[int]:
    """Return an endpoint's error answers beyond the common ones, by its method and path."""
    found = {415} if methods & {"POST", "PUT", "PATCH"} else set()
    if "POST" in methods:
        found |= {400, 409}
    if "{" in path and methods - {"PUT"}:  # a PUT creates what is missing
        found.add(404)
    return sorted(found)
