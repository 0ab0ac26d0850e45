"""What cannot be an endpoint is refused at import; what an endpoint answers is what it declares."""

import asyncio
import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, cast
from urllib.parse import quote

import httpx
import pytest
from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import BaseModel, Field
from sqlalchemy import Connection, Engine, StaticPool, create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm import Session as OrmSession

from shared import Session
from shared.http import Created, RequestBody, ResponseBody, Router, Transaction, guard, tokens
from shared.http.api import make_application
from shared.http.router import Route
from shared.postgres import ahead
from shared.postgres.ahead import Statement
from shared.postgres.engine import Requests
from shared.postgres.outbox import Outbox
from shared.service import Service
from shared.settings import Settings

Content = TypeVar("Content")
HUGE = 2**63
TOKEN, ENTRY = tokens.make("shop", ["things:read", "things:write"])
KEYS = (
    "CREATE TABLE exactly_once_idempotency_key (scope, key, body_hash, status, answer, PRIMARY KEY (scope, key))",
    "CREATE TABLE thing (name TEXT PRIMARY KEY)",
)


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "thing"

    name: Mapped[str] = mapped_column(primary_key=True)


class ThingResponse(ResponseBody, of=Thing):
    name: str


class Listing(ResponseBody, Generic[Content]):
    items: list[Content]


class Api:
    """The API of a service, without a server: in SQLite, in which one statement more would fail."""

    opened: ClassVar[list[Engine]] = []

    def __init__(self, router: APIRouter, **told: str) -> None:
        self.engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        self.opened.append(self.engine)
        with self.engine.begin() as connection:
            for statement in KEYS:
                connection.execute(text(statement))
        settings = Settings.model_validate({**TOLD, **told})
        service = Service("things", publishes=())
        outbox = Outbox(service, 1_000)
        vars(sys.modules[__name__])["served"] = router
        self.app = make_application(
            routes=f"{__name__}:served",
            service=service,
            settings=settings,
            engine=self.engine,
            outbox=outbox,
            requests=Requests(self.engine, outbox),
        )

    def ask(self, method: str, path: str, *, key: str = "k", **more: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://things") as client:
                headers = {"Idempotency-Key": key} if method == "POST" else {}
                return await client.request(method, path, headers={**headers, **more.pop("headers", {})}, **more)

        return asyncio.run(asked())

    def names(self) -> list[str]:
        with self.engine.connect() as connection:
            return list(connection.execute(select(Thing.name)).scalars())


TOLD = {"kafka_bootstrap_servers": "x:1", "database_url": "postgresql://x", "api_auth": "off"}


@pytest.fixture(autouse=True)
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The failures that the log would have."""
    found: list[str] = []
    log = SimpleNamespace(error=lambda _event, *, exc_info, **_: found.append(str(exc_info)))
    monkeypatch.setattr(guard, "_log", log)
    return found


@pytest.fixture(autouse=True)
def _one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite takes statements one by one."""

    def execute(connection: Connection, statements: Sequence[Statement]) -> list[list[Any]]:
        results = [connection.execute(*one) for one in statements]
        return [list(result) if result.returns_rows else [] for result in results]

    monkeypatch.setattr(ahead, "execute", execute)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Leave no database open: Python 3.13 warns of it, which fails whichever test runs then."""
    yield
    while Api.opened:
        Api.opened.pop().dispose()


@pytest.fixture
def router() -> Router:
    return Router(scope="things")


# ---- who may call


def things() -> str:
    return "things"


def plain() -> APIRouter:
    other = APIRouter()
    other.add_api_route("/open", things)
    return other


def included() -> APIRouter:
    outer = Router(scope="things")
    outer.include_router(plain())
    return outer


def mounted() -> APIRouter:
    outer = Router(scope="things")
    outer.mount("/open", cast("Any", Response()))
    return outer


def starlette() -> APIRouter:
    outer = Router(scope="things")
    outer.add_route("/open", cast("Any", lambda _: Response()))
    return outer


def socket() -> APIRouter:
    outer = Router(scope="things")
    outer.add_api_websocket_route("/open", cast("Any", lambda _: None))
    return outer


@pytest.mark.parametrize("make", [plain, included, mounted, starlette, socket])
def test_a_route_that_would_ask_for_no_token_is_refused(make: Callable[[], APIRouter]) -> None:
    with pytest.raises(TypeError, match=r"served has /open, which is not made by a `Router` and .* `scope=None` if"):
        Api(make())


def test_the_old_form_of_a_router_is_refused() -> None:
    with pytest.raises(TypeError, match=r'/stock is of a route class .* write `router = Router\(scope="stock"\)`'):
        APIRouter(route_class=Route, tags=["stock"]).add_api_route("/stock", things)


def test_each_router_asks_for_its_own_scope(router: Router) -> None:
    orders, public = Router(scope="orders"), Router(scope=None)

    @router.get("/things")
    def things() -> str:
        return "things"

    @orders.get("/orders")
    def list_orders() -> str:
        return "orders"

    @public.post("/signs")
    def sign(session: Transaction) -> str:
        session.add(Thing(name="sign"))
        return "signed"

    router.include_router(orders, prefix="/v1")
    router.include_router(public)
    api = Api(router, api_auth="on", api_tokens=ENTRY)
    bearer: dict[str, Any] = {"headers": {"Authorization": f"Bearer {TOKEN}"}}

    assert [api.ask("GET", path).status_code for path in ("/things", "/v1/orders", "/health/live")] == [401, 401, 200]
    assert [api.ask("GET", path, **bearer).status_code for path in ("/things", "/v1/orders")] == [200, 403]
    assert [api.ask("POST", "/signs").text for _ in range(2)] == ['"signed"', '"signed"']
    assert api.names() == ["sign"]
    described = api.app.openapi()["paths"]
    assert described["/v1/orders"]["get"]["security"] == [{"token": ["orders:read"]}]
    assert "security" not in described["/signs"]["post"]


# ---- what an endpoint is


def refusal(router: Router, endpoint: Any, *, method: str = "GET", **given: Any) -> str:
    with pytest.raises(TypeError) as refused:
        router.add_api_route("/things", endpoint, methods=[method], **given)
    assert str(refused.value).startswith("/things, ")
    return str(refused.value)


def test_a_session_of_another_kind_is_refused(router: Router) -> None:
    def handlers(session: Session) -> ThingResponse:
        raise NotImplementedError

    def sqlalchemys(session: OrmSession) -> ThingResponse:
        raise NotImplementedError

    def missing(session: Transaction | None = None) -> ThingResponse:
        raise NotImplementedError

    def annotated(session: Annotated[Transaction, "the request's"]) -> ThingResponse:
        raise NotImplementedError

    for endpoint in (handlers, sqlalchemys, missing, annotated):
        assert "the session of an endpoint is `session: Transaction`, and is never missing" in refusal(router, endpoint)


def test_a_session_of_the_services_own_is_its_own(router: Router) -> None:
    def another() -> Iterator[OrmSession]:
        yield OrmSession()

    @router.get("/things")
    def things(session: Transaction, reports: Annotated[OrmSession, Depends(another)]) -> str:
        return f"{type(session).__name__} {type(reports).__name__}"

    assert Api(router).ask("GET", "/things").json() == "Transaction Session"


def test_a_type_that_cannot_be_read_is_named(router: Router) -> None:
    def things(session: Transaction, body: "Misspelt") -> ThingResponse:  # type: ignore[name-defined]  # noqa: F821
        raise NotImplementedError

    assert "its types cannot be read: name 'Misspelt' is not defined. Is it misspelt" in refusal(router, things)


def test_a_function_that_cannot_be_called_by_names_is_refused(router: Router) -> None:
    def positional(number: int, /, session: Transaction) -> ThingResponse:
        raise NotImplementedError

    def several(session: Transaction, *numbers: int) -> ThingResponse:
        raise NotImplementedError

    def careless(function: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*given: Any, **named: Any) -> Any:
            return function(*given, **named)

        return inner

    for endpoint, method in ((positional, "GET"), (several, "GET"), (careless(positional), "POST")):
        words = refusal(router, endpoint, method=method)
        assert "as a plain parameter. Does a decorator lack `functools.wraps`?" in words


def test_a_decorated_endpoint_is_one(router: Router) -> None:
    def careful(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def inner(*given: Any, **named: Any) -> Any:
            return function(*given, **named)

        return inner

    @router.get("/things/{number}")
    @careful
    def things(number: int, session: Transaction) -> str:
        return f"{number} {type(session).__name__}"

    assert Api(router).ask("GET", "/things/7").json() == "7 Transaction"


def test_an_endpoint_that_yields_is_refused(router: Router) -> None:
    def some(session: Transaction) -> Iterator[ThingResponse]:
        yield ThingResponse(name="a")

    def untyped(session: Transaction) -> Any:
        yield ThingResponse(name="a")

    assert "yields, and would be run after its transaction" in refusal(router, some)
    assert "yields, and would be run after its transaction" in refusal(router, untyped, method="POST")


# ---- what an endpoint returns


def returning(declared: Any) -> Callable[..., Any]:
    def things(session: Transaction) -> Any: ...

    if declared is inspect.Signature.empty:
        del things.__annotations__["return"]
    else:
        things.__annotations__["return"] = declared
    return things


def test_what_cannot_be_stored_is_refused_of_a_post(router: Router) -> None:
    for declared in (None, Any, object, Response, ThingResponse | None, Created[ThingResponse] | None):
        assert "; a POST returns its body (a ResponseBody)" in refusal(router, returning(declared), method="POST")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_endpoint_without_a_return_type_is_refused(router: Router, method: str) -> None:
    for given in ({}, {"response_model": None}):
        words = refusal(router, returning(inspect.Signature.empty), method=method, **given)
        assert "has no return type: write `-> ItemResponse` for its body" in words


def test_what_is_no_body_is_refused(router: Router) -> None:
    for declared in (Thing, list[Thing], Created[Thing]):
        assert "which is no body of an answer: declare `class ItemResponse(" in refusal(router, returning(declared))
    assert "write which body: `-> Created[ItemResponse]`" in refusal(router, returning(Created))


def test_a_body_is_refused_where_the_status_has_none(router: Router) -> None:
    for declared in (ThingResponse, Any, Created[ThingResponse]):
        words = refusal(router, returning(declared), method="DELETE", status_code=204)
        assert words.endswith("and 204 has no body: write `-> None`")


def test_a_deletion_answers_with_204_and_nothing(router: Router) -> None:
    @router.delete("/things", status_code=204)
    def delete(session: Transaction) -> None:
        session.add(Thing(name="a"))

    api = Api(router)
    answer = api.ask("DELETE", "/things")
    assert (answer.status_code, answer.content, api.names()) == (204, b"", ["a"])
    assert "content-type" not in answer.headers
    assert "content" not in api.app.openapi()["paths"]["/things"]["delete"]["responses"]["204"]


GOOD = [
    (ThingResponse, lambda: ThingResponse(name="a"), {"name": "a"}),
    (ThingResponse, lambda: {"name": "a"}, {"name": "a"}),
    (list[ThingResponse], lambda: [ThingResponse(name="a")], [{"name": "a"}]),
    (Listing[ThingResponse], lambda: Listing(items=[ThingResponse(name="a")]), {"items": [{"name": "a"}]}),
    (dict[str, int], lambda: {"a": 1}, {"a": 1}),
    (dict[str, Any], lambda: {"a": Decimal("1.5")}, {"a": "1.5"}),
    (str | int, lambda: 7, 7),
    (Created[ThingResponse] | ThingResponse, lambda: Created(ThingResponse(name="a")), {"name": "a"}),
    (Created[ThingResponse] | ThingResponse, lambda: ThingResponse(name="a"), {"name": "a"}),
]
BAD = [
    (ThingResponse, lambda: {"bogus": 1}, "returned a dict, and declares ThingResponse (name: Field required)"),
    (ThingResponse, lambda: None, "returned a NoneType, and declares ThingResponse"),
    (ThingResponse, lambda: Thing(name="a"), "returned a Thing, and declares ThingResponse"),
    (ThingResponse, lambda: Created(ThingResponse(name="a")), "returned a Created, and declares ThingResponse"),
    (ThingResponse, lambda: Response(b"1"), "returned a Response, and declares ThingResponse"),
    (Created[ThingResponse], lambda: ThingResponse(name="a"), "returned a ThingResponse, and declares "),
    (Created[ThingResponse], lambda: Created({"bogus": 1}), "(name: Field required)"),
    (list[ThingResponse], lambda: [{"bogus": 1}], "(0: name: Field required)"),
]


def posting(router: Router, declared: Any, made: Callable[[], Any]) -> Api:
    def things(session: Transaction) -> Any:
        session.add(Thing(name="added"))
        return made()

    things.__annotations__["return"] = declared
    router.add_api_route("/things", things, methods=["POST"])
    return Api(router)


@pytest.mark.parametrize(("declared", "made", "body"), GOOD, ids=range(len(GOOD)))
def test_what_is_declared_is_answered_and_stored(router: Router, declared: Any, made: Any, body: Any) -> None:
    api = posting(router, declared, made)
    first, again = (api.ask("POST", "/things") for _ in range(2))
    assert first.json() == body
    assert first.status_code == (201 if isinstance(made(), Created) else 200)
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")


@pytest.mark.parametrize(("declared", "made", "words"), BAD, ids=range(len(BAD)))
def test_what_is_not_declared_undoes_the_request(
    router: Router, declared: Any, made: Any, words: str, logged: list[str]
) -> None:
    api = posting(router, declared, made)
    assert api.ask("POST", "/things").status_code == 500
    assert api.names() == []
    (failure,) = logged
    assert failure.startswith("/things, ")
    assert words in failure


def test_a_get_may_answer_with_a_response_of_the_framework(router: Router) -> None:
    @router.get("/things")
    def things(session: Transaction) -> Response:
        return Response(b"a;b", media_type="text/csv")

    assert Api(router).ask("GET", "/things").text == "a;b"


def test_the_status_that_is_described_is_the_one_that_is_answered(router: Router) -> None:
    @router.post("/things", status_code=202)
    def things(session: Transaction) -> Created[ThingResponse]:
        return Created(ThingResponse(name="a"), location="/things/a")

    api = Api(router)
    answer = api.ask("POST", "/things")
    assert (answer.status_code, answer.headers["location"]) == (202, "/things/a")
    assert {"200", "201", "202"} & api.app.openapi()["paths"]["/things"]["post"]["responses"].keys() == {"202"}


# ---- Location


@pytest.mark.parametrize("name", ["茶", "☕😀", "a b", "a\r\nX-Own: 1", "a%20b", "a\x00"])
def test_a_location_is_one_that_a_header_can_hold(router: Router, name: str) -> None:
    api = posting(router, Created[ThingResponse], lambda: Created(ThingResponse(name="a"), location=f"/things/{name}"))
    for _ in range(2):
        answer = api.ask("POST", "/things")
        assert (answer.status_code, answer.headers["location"]) == (201, f"/things/{quote(name, safe='%:')}")
        assert "x-own" not in answer.headers


def test_a_location_that_is_an_address_stays_as_it_is() -> None:
    address = "https://things.example:8000/v1/a,b;c/(d)?e=f&g=%C3%A4#h"
    assert Created(ThingResponse(name="a"), location=address).location == address


def test_a_location_that_is_no_text_undoes_the_request(router: Router) -> None:
    location = cast("str", 7)
    api = posting(router, Created[ThingResponse], lambda: Created(ThingResponse(name="a"), location=location))
    assert (api.ask("POST", "/things").status_code, api.names()) == (500, [])


# ---- the query belongs to the request


@pytest.fixture
def counting(router: Router) -> Api:
    @router.post("/things")
    def things(session: Transaction, n: int = 0) -> int:
        session.add(Thing(name=str(n)))
        return n

    return Api(router)


def test_a_key_stands_for_one_query(counting: Api) -> None:
    def answer(query: str) -> tuple[int, str]:
        found = counting.ask("POST", f"/things{query}")
        return found.status_code, found.json().get("type") if found.status_code >= 400 else found.text

    reused = (422, "urn:problem:idempotency-key-reused")
    assert [answer(query) for query in ("?n=1", "?n=2", "?n=1", "")] == [(200, "1"), reused, (200, "1"), reused]
    assert counting.names() == ["1"]


def test_a_request_without_a_query_is_not_one_with_a_query(counting: Api) -> None:
    assert [counting.ask("POST", path).status_code for path in ("/things", "/things?n=2", "/things")] == [200, 422, 200]


@pytest.mark.parametrize("path", ["/things", "/things?n=1"])
def test_a_request_of_the_version_before_is_repeated_on_both_sides_of_an_upgrade(counting: Api, path: str) -> None:
    """It stored no query, and compared the hash of the body alone."""
    assert counting.ask("POST", path).status_code == 200
    with counting.engine.begin() as connection:
        ((body_hash, answer),) = connection.execute(
            text("SELECT body_hash, answer FROM exactly_once_idempotency_key")
        ).all()
        assert body_hash.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of no bytes
        old = {name: value for name, value in json.loads(answer).items() if name != "query"}
        connection.execute(
            text("UPDATE exactly_once_idempotency_key SET answer = :answer"), {"answer": json.dumps(old).encode()}
        )
    again = counting.ask("POST", path)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert counting.names() == ["1" if "n=1" in path else "0"]


# ---- what no column can hold


class Inner(BaseModel):
    number: int


class Small(RequestBody):
    kind: Literal["small"]
    number: int


class Named(RequestBody):
    kind: Literal["named"]
    name: str


class Order(RequestBody):
    number: int = 0
    ratio: float = 0.0
    name: str = ""
    numbers: list[int] | None = None
    words: dict[str, Any] | None = None
    inner: Inner | None = None
    one: Annotated[Small | Named, Field(discriminator="kind")] | None = None
    big: Annotated[Decimal, Field(strict=False)] | None = None


class Filters(BaseModel):
    below: int = 0


@pytest.fixture
def storing(router: Router) -> Api:
    @router.put("/things/{number}")
    def put(
        number: int,
        session: Transaction,
        order: Order,
        filters: Annotated[Filters, Query()],
        *,
        after: Annotated[int | None, Query()] = None,
        ratio: float = 0.0,
        text: str = "",
        size: Annotated[int, Header()] = 0,
    ) -> str:
        return "stored"

    @router.post("/inner")
    def post(session: Transaction, inner: Inner) -> str:
        return "stored"

    return Api(router)


@pytest.mark.parametrize(
    ("path", "body", "at"),
    [
        (f"/things/{HUGE}", {}, "path.number"),
        (f"/things/7?after={HUGE}", {}, "query.after"),
        (f"/things/7?after={-HUGE - 1}", {}, "query.after"),
        (f"/things/7?below={HUGE}", {}, "query"),
        ("/things/7?ratio=nan", {}, "query.ratio"),
        ("/things/7?text=a%00b", {}, "query.text"),
        ("/things/7", {"number": HUGE}, "body.number"),
        ("/things/7", {"number": -HUGE - 1}, "body.number"),
        ("/things/7", {"ratio": float("inf")}, "body.ratio"),
        ("/things/7", {"name": "a\0b"}, "body.name"),
        ("/things/7", {"name": "a\ud800b"}, "body.name"),
        ("/things/7", {"numbers": [1, HUGE]}, "body.numbers"),
        ("/things/7", {"words": {"a": [{"b": HUGE}]}}, "body.words"),
        ("/things/7", {"words": {"a\0": 1}}, "body.words"),
        ("/things/7", {"inner": {"number": HUGE}}, "body.inner"),
        ("/things/7", {"one": {"kind": "small", "number": HUGE}}, "body.one.small.number"),
        ("/things/7", {"one": {"kind": "named", "name": "\0"}}, "body.one.named.name"),
    ],
)
def test_what_no_column_can_hold_is_the_clients_fault(storing: Api, path: str, body: Any, at: str) -> None:
    content = json.dumps(body).encode()
    answer = storing.ask("PUT", path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert [error["at"] for error in answer.json()["errors"]] == [at]


def test_a_header_and_a_body_of_another_class_are_checked_too(storing: Api) -> None:
    assert storing.ask("PUT", "/things/7", json={}, headers={"Size": str(HUGE)}).status_code == 422
    assert storing.ask("POST", "/inner", json={"number": HUGE}).status_code == 422
    assert storing.ask("POST", "/inner", json={"number": HUGE - 1}).status_code == 200


def test_what_a_column_can_hold_passes(storing: Api) -> None:
    body = {
        "number": HUGE - 1,
        "ratio": 1e300,
        "name": "茶\U0001f600\n",
        "numbers": [-HUGE],
        "words": {"a": None, "b": True},
        "inner": {"number": 1},
        "one": {"kind": "named", "name": "a"},
        "big": HUGE * HUGE,
    }
    answer = storing.ask("PUT", f"/things/{HUGE - 1}?after={-HUGE}&text=%C3%A4", json=body, headers={"Size": "7"})
    assert (answer.status_code, answer.json()) == (200, "stored")


def test_the_old_names_are_refused_with_the_new_ones() -> None:
    for name in ("Route", "Answer", "Calling"):
        with pytest.raises(
            ImportError, match=f"{name} is gone: an endpoint of a `Router` takes `session: Transaction`"
        ):
            exec(f"from shared.http import {name}")
