"""A small service that pays bills through a bank, the bank, and callers that die or stand still at one exact step.

The bank is a server on loopback in the test's process. It honours idempotency keys, and fails as it is told to.
"""

import ctypes
import json
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

import psycopg
from dependency_injector import providers
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dev.servers import Postgres
from shared import Event, Id, Service, Session, Tables, command
from shared.calls import Again, Answer, Call, Destination, Done, GivenUp, Never, Request, Verdict, call
from shared.calls import caller as caller_module
from shared.container import ServiceContainer, containers
from shared.orm import bulk
from shared.postgres import ahead, tables
from shared.postgres.engine import Requests
from shared.testing import until
from shared.testing.workers import StageSettings, processes

SETTLE_SECONDS = 1.0
"""Of the callers here: a lease lasts four seconds."""


class Base(Tables, DeclarativeBase):
    """The service's metadata."""


class Bill(Base):
    __tablename__ = "bill"
    id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    changes: Mapped[int] = mapped_column(default=0)


class Paid(Event, key="bill", topic="pay.events"):
    bill: Id
    part: int
    receipt: str


class Unpaid(Event, key="bill", topic="pay.events"):
    bill: Id
    part: int
    why: str
    maybe_done: bool


class BankSettings(StageSettings):
    bank_url: str


BANK = Destination(
    "bank",
    url=lambda settings: str(settings.bank_url),
    seconds=3.0,  # a slow machine asks eight times before the first answer
    pause_seconds_min=0.02,
    pause_seconds_max=0.1,
    rest_seconds=0.2,
)


class Pay(Call, key="bill"):
    """Pay a part of a bill."""

    destination = BANK
    attempts = 1_000
    within = timedelta(minutes=5)

    bill: Id
    part: int = 0

    def request(self) -> Request:
        return Request("POST", "/payments", json={"bill": self.bill, "part": self.part})

    def answered(self, answer: Answer, session: Session) -> Verdict:
        if answer.meaning == "again":
            return Again(f"the bank says {answer.status}", answer.retry_after)
        bill = session.lock(Bill, self.bill)
        assert bill is not None
        bill.changes += 1
        if answer.meaning == "never":
            bill.state = "REFUSED"
            return Never("refused", Unpaid(bill=self.bill, part=self.part, why=str(answer.status), maybe_done=False))
        bill.state = "PAID"
        return Done(Paid(bill=self.bill, part=self.part, receipt=answer.json()["receipt"]))

    def given_up(self, why: GivenUp, session: Session) -> Unpaid:
        bill = session.lock(Bill, self.bill)
        assert bill is not None
        bill.changes += 1
        bill.state = "GIVEN_UP"
        return Unpaid(bill=self.bill, part=self.part, why=why.reason, maybe_done=why.maybe_done)


class PayOnce(Pay):
    """One that is given up after two attempts."""

    attempts = 2


class PaySoon(Pay):
    """One that is given up at its deadline."""

    within = timedelta(seconds=0.3)


service = Service("pay", publishes=(Paid, Unpaid))


@containers.copy(ServiceContainer)
class PayContainer(ServiceContainer):
    service = providers.Object(service)
    calls = providers.Object((Pay, PayOnce, PaySoon))
    settings_class = providers.Object(BankSettings)
    routes = providers.Object("none:router")


class Asked(NamedTuple):
    """A request that reached the bank."""

    key: str
    bill: str
    part: int
    trace: str | None


class Bank:
    """A bank that books each idempotency key once. `wrong` decides how it fails at a request, before or after it has
    booked; None: it does not.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.booked: dict[str, str] = {}
        self.wrong: Callable[[Asked, int], str | None] = lambda _asked, _n: None
        """Given the request and how often its key was asked: `cut before`, `cut after`, or a status."""
        self.gate = threading.Event()
        """The bank waits for it between booking and answering."""
        self.gate.set()
        self.under_way = self.most_under_way = 0
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        bank = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with bank._turn:
                    bank.under_way += 1
                    bank.most_under_way = max(bank.most_under_way, bank.under_way)
                try:
                    bank._serve(self, body)
                finally:
                    with bank._turn:
                        bank.under_way -= 1

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, talking: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        asked = Asked(talking.headers["Idempotency-Key"], body["bill"], body["part"], talking.headers["traceparent"])
        with self._turn:
            self.asked.append(asked)
            wrong = self.wrong(asked, sum(one.key == asked.key for one in self.asked))
            if wrong in (None, "cut after"):
                self.booked.setdefault(asked.key, f"r-{len(self.booked)}")
            receipt = self.booked.get(asked.key)
        self.gate.wait(60)
        talking.close_connection = wrong in ("cut before", "cut after")
        if talking.close_connection:
            return
        status, said = (int(wrong), {}) if wrong else (200, {"receipt": receipt})
        data = json.dumps(said).encode()
        with suppress(OSError):  # a caller that was killed
            talking.send_response(status)
            talking.send_header("Content-Length", str(len(data)))
            talking.end_headers()
            talking.wfile.write(data)


STEPS = ("take", "request", "ask", "decide", "finish", "answered")
"""Of a caller: it takes a call, makes the request, asks the bank, lets the service decide, deletes the call in the open
transaction, and has committed after `answered`, with the answers that came together."""


@dataclass(frozen=True)
class Order:
    """Instructions of a caller process."""

    name: str
    settings: BankSettings
    log: Path
    step: str = ""
    """One of STEPS, or `hang`, or `sleep`."""
    after: bool = False
    deed: signal.Signals = signal.SIGKILL


def main(order: Order) -> None:
    """Run a caller with the command line's code and exit codes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    with order.log.open("ab") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    caller_module.SETTLE_SECONDS = SETTLE_SECONDS
    if order.step:
        _arm(order)
    container = PayContainer()
    container.service().name = "pay"
    container.settings.override(providers.Object(order.settings))
    container.check_caller.override(providers.Object(None))
    container.caller.override(
        providers.Singleton(
            caller_module.Caller,
            settings=order.settings,
            service=container.service,
            engine=container.caller_engine,
            outbox=container.outbox,
            check=providers.Object(lambda: None),
        )
    )
    command.leave(command.run(container, ["caller"]))


def _arm(order: Order) -> None:
    """Let the process send itself a signal at the first call of a step that has something to do; or let every request
    hang where the service makes it; or let it look for calls only when it is woken.
    """
    from shared.calls import exchange, queue, settling

    if order.step == "sleep":
        caller_module.POLL_SECONDS = caller_module.LISTENING_SECONDS = 3_600.0
        return
    if order.step == "hang":
        caller_module.STUCK_SECONDS, caller_module.LOOK_SECONDS = 1.0, 0.1
        settling.Settling.request_of = lambda *_: threading.Event().wait()  # type: ignore[assignment,method-assign]
        return
    place, name = {
        "take": (caller_module.Caller, "_take"),
        "request": (settling.Settling, "request_of"),
        "ask": (exchange.Exchange, "ask"),
        "decide": (settling.Settling, "_decided"),
        "finish": (queue, "finish"),
        "answered": (settling.Settling, "answered_together"),
    }[order.step]
    real: Any = getattr(place, name)
    left = [True]

    def strike() -> None:
        if left:
            left.clear()
            os.kill(os.getpid(), order.deed)

    if order.step == "ask":

        async def ask(*given: Any) -> Any:
            if not order.after:
                strike()
            answer = await real(*given)
            strike()
            return answer

        setattr(place, name, ask)
        return

    def call(*given: Any, **named: Any) -> Any:
        if not order.after and order.step != "take":
            strike()
        done = real(*given, **named)
        if order.step != "take" or done:
            strike()
        return done

    def take_before(*given: Any, **named: Any) -> Any:
        strike()
        return real(*given, **named)

    setattr(place, name, take_before if order.step == "take" and not order.after else call)


class Stage:
    """The service, its database, its bank, and its callers."""

    def __init__(self, postgres: Postgres, logs: Path) -> None:
        self._postgres = postgres
        self._logs = logs
        self.name = f"pay-{uuid.uuid4().hex[:12]}"
        self.bank = Bank()
        self._processes: list[Any] = []

    def __enter__(self) -> Self:
        self._postgres.create_database(self.name)
        self.engine = create_engine(self._postgres.dsn(self.name))
        bulk.install(self.engine)
        ahead.install(self.engine)
        for metadata in (tables.metadata, Base.metadata):
            metadata.create_all(self.engine)
        self.connection = psycopg.connect(self._postgres.dsn(self.name), autocommit=True)
        self.connection.execute("INSERT INTO exactly_once_lane (lane) VALUES (0)")
        self.connection.execute("INSERT INTO exactly_once_destination (name) VALUES ('bank')")
        self.bank.__enter__()
        self.settings = BankSettings.model_validate(
            {
                "kafka_bootstrap_servers": "localhost:1",
                "database_url": self._postgres.dsn(self.name),
                "bank_url": self.bank.url,
                "log_level": "debug",
            }
        )
        container = PayContainer()
        container.settings.override(providers.Object(self.settings))
        self.outbox = container.outbox()
        self.requests = Requests(self.engine, self.outbox)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        for process in self._processes:
            if process.is_alive():
                process.kill()
            process.join()
        if error is not None:
            error.add_note("\n".join(f"--- {log.name}\n{log.read_text()}" for log in sorted(self._logs.iterdir())))
        self.bank.__exit__()
        self.connection.close()
        self.engine.dispose()
        self._postgres.drop_database(self.name)

    def due(self, *bills: str, kind: type[Pay] = Pay, parts: Sequence[int] = (0,)) -> None:
        """Make calls, as a request does."""
        with self.requests.transaction() as session:
            session.publisher = lambda event: self.outbox.add(session, event, CONTEXT)
            for bill in bills:
                if session.lock(Bill, bill) is None:
                    session.add(Bill(id=bill, state="ASKED"))
                for part in parts:
                    call(session, kind(bill=bill, part=part))

    def caller(self, step: str = "", *, after: bool = False, deed: signal.Signals = signal.SIGKILL) -> Any:
        """Start a caller, which dies or stands still at a step."""
        log = self._logs / f"caller-{len(self._processes)}.log"
        log.touch()
        order = Order(self.name, self.settings, log, step, after, deed)
        process = processes.Process(target=main, args=(order,))
        process.start()
        self._processes.append(process)
        return process

    def log(self, n: int) -> str:
        return (self._logs / f"caller-{n}.log").read_text()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(query.encode()).fetchall()

    def events(self) -> list[dict[str, Any]]:
        """Return what waits to be published, in order; no worker publishes it."""
        return [
            {"type": kind, **json.loads(data)}
            for kind, data in self.rows("SELECT event_type, data FROM exactly_once_outbox ORDER BY id")
        ]

    def until_finished(self) -> None:
        until(lambda: not self.rows("SELECT FROM exactly_once_call"), "every call is finished")


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONTEXT = f"{TRACE}\ntracestate: vendor=1\nbaggage: tenant=eu-7"


@contextmanager
def playing(postgres: Postgres, logs: Path) -> Iterator[Stage]:
    """Set the stage."""
    with Stage(postgres, logs) as stage:
        yield stage
