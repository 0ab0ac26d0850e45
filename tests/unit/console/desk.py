"""A console of two services without servers: what its looks have found is put there by the test."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import httpx
from starlette.applications import Starlette

from shared.calls import Call, Destination
from shared.console.application import make_application
from shared.console.board import Board
from shared.console.estate import Absent, Known, reader
from shared.console.looks import Answer, Look
from shared.console.sight import Sight, Tables, Topics, Waits
from shared.events import Event
from shared.http import tokens
from shared.operations.group import Member, Span
from shared.operations.maintenance import Context, Holder
from shared.operations.status import Status
from shared.postgres.backlog import Lane
from shared.postgres.outbox import Outbox
from shared.protocol.ports import Input, Position
from shared.service import Service
from shared.settings import Settings

SECRET = "swordfish"
BANK = Destination("bank", url=lambda _: "http://bank", headers=lambda _: {})


class Ordered(Event, topic="shop.events", key="sku"):
    sku: str


class Stored(Event, topic="store.events", key="sku"):
    sku: str


class Paid(Event, topic="elsewhere.events", key="sku"):
    sku: str


class Charge(Call, key="sku"):
    destination = BANK
    within = timedelta(hours=1)
    sku: str


def settings(**more: Any) -> Settings:
    given = {
        "kafka_bootstrap_servers": "127.0.0.1:1",
        "database_url": f"postgresql://me:{SECRET}@127.0.0.1:1/{{service}}",
        "api_auth": "off",
        **more,
    }
    return Settings(_env_file=None, **given)  # type: ignore[call-arg]


def shop() -> Service:
    service = Service("shop", publishes=(Ordered,))

    @service.on(Stored)
    def close(event: Stored) -> None:
        """Closes the order."""

    @service.on(Paid)
    def note(event: Paid) -> None:
        """Notes the payment."""

    return service


def store() -> Service:
    service = Service("store", publishes=(Stored,))

    @service.on(Ordered)
    def reserve(event: Ordered) -> Stored:
        return Stored(sku=event.sku)

    return service


def known(service: Service, given: Settings, calls: tuple[type[Call], ...] = ()) -> Known:
    engine = reader(given, service.name)
    context = Context(given, service, engine, Outbox(service, given.event_bytes_max))
    return Known(service, given, calls, engine, context, context)


class Browser:
    """Keeps cookies and follows redirects."""

    def __init__(self, application: Starlette) -> None:
        self._application = application
        self.cookies = httpx.Cookies()

    def get(self, place: str, **more: Any) -> httpx.Response:
        return self._ask("GET", place, **more)

    def post(self, place: str, **more: Any) -> httpx.Response:
        return self._ask("POST", place, **more)

    def _ask(self, method: str, place: str, *, follow_redirects: bool = True, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._application, raise_app_exceptions=False)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost", cookies=self.cookies, timeout=60
            ) as client:
                answer = await client.request(method, place, follow_redirects=follow_redirects, **more)
                self.cookies = client.cookies
                return answer

        return asyncio.run(ask())


class Desk:
    """The console, and a browser at it."""

    def __init__(self, *absent: Absent, scopes: tuple[str, ...] = (), **more: Any) -> None:
        self.secret, entry = tokens.make("ada", scopes or ("console:read",))
        self.settings = settings(**({"api_auth": "on", "api_tokens": entry} if scopes else {}), **more)
        self.board = Board([known(shop(), self.settings, (Charge,)), known(store(), self.settings), *absent])
        self.application = make_application(self.board, self.settings, "shop")
        self.browser = Browser(self.application)

    def sight(self, name: str = "shop") -> Sight:
        return self.board.sights[name]

    def sees(self, name: str = "shop", **changed: Any) -> None:
        """Let all looks at a service have found something, `changed` in places."""
        sight = self.sight(name)
        service = sight.known.service
        inputs = [Input(topic, n) for topic in service.consumed_topics for n in (0, 1)]
        own = [Input(topic, n) for topic in service.published_topics for n in (0, 1)]
        member = Member(f"{name}-0-0123abcd", "10.0.0.1", inputs, [0, 1])
        found: dict[Any, Any] = {
            "topics": Topics({source: Span(0, 105, 105) for source in (*inputs, *own)}, [member]),
            "tables": Tables(
                {source: Position(100, 0) for source in inputs},
                [Lane(0, None, None, 0.0), Lane(1, None, None, 0.0)],
                [Holder(0, 4711, "10.0.0.1", 61.0)],
            ),
            "status": Status([], [], [], [str(member)]),
            "waits": Waits([], [], [], [], []),
            **changed,
        }
        for which, answer in found.items():
            look: Look[Any] = getattr(sight, which)
            look.answer = Answer(answer, time.monotonic())

    def log_in(self) -> None:
        self.browser.post("/login", data={"token": self.secret, "next": "/"})

    def csrf(self) -> str:
        """Return the secret of this login's forms, as a page has it."""
        place = "/confirm/redrive?service=shop&id=1" if self.settings.api_auth == "off" else "/nowhere"
        page = self.browser.get(place).text
        return page.partition('name="csrf" value="')[2].partition('"')[0]
