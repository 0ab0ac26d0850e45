"""The console of the demo's three services, for a browser: their databases are real, and what Kafka would show is put
there, so that pictures of two runs are alike.
"""

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from dependency_injector import providers
from sqlalchemy import create_engine, text

from services.inventory.container import InventoryContainer
from services.order.container import OrderContainer
from services.payment.container import PaymentContainer
from shared.console import acts
from shared.console.application import make_application
from shared.console.board import Board
from shared.console.estate import Known, known
from shared.console.looks import Answer
from shared.console.rates import Rates
from shared.console.sight import Change, Sight, Tables, Topics, Waits
from shared.http import tokens
from shared.operations.dead_letters import Alike
from shared.operations.group import Member, Span
from shared.operations.maintenance import Holder
from shared.operations.status import Status
from shared.postgres.backlog import Lane
from shared.protocol.ports import Input, Position
from shared.settings import Settings
from shared.testing import SECONDS_MAX, until

EVERYTHING = ("console:read", *acts.SCOPES)
SERVICES = (OrderContainer, InventoryContainer, PaymentContainer)
HOSTS = ("10.0.0.4", "10.0.0.5")
PARTITIONS = range(4)
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'

LAG = {"order": 3, "inventory": 0, "payment": 12}
PER_SECOND = {"order": 61, "inventory": 74, "payment": 49}


class Showcase:
    """A console with something to see."""

    def __init__(self, settings: Settings, beside: Path | None = None) -> None:
        self.secret, entry = tokens.make("ada", EVERYTHING)
        given = {**settings.model_dump(), "api_auth": "on", "api_tokens": entry}
        built: list[Known] = []
        for kind in SERVICES:
            container: Any = kind()
            container.settings.override(providers.Object(container.settings_class().model_validate(given)))
            built.append(known(container))
        self.board = Board(sorted(built, key=lambda one: one.name), beside)
        for sight in self.board.sights.values():
            self._see(sight)
        self.application = make_application(self.board, built[0].settings, "order")

    def _see(self, sight: Sight) -> None:
        service, name = sight.known.service, sight.known.name
        inputs = [Input(topic, n) for topic in service.consumed_topics for n in PARTITIONS]
        own = [Input(topic, n) for topic in service.published_topics for n in PARTITIONS]
        members = [
            Member(f"{name}-{slot}-0123abcd", f"10.0.0.{slot + 4}", inputs[slot::2], [slot, slot + 2])
            for slot in (0, 1)
        ]
        lags = {source: LAG[name] if n == 1 else 0 for n, source in enumerate(inputs)}
        show(sight, "topics", Topics({source: Span(0, 9_000, 9_000) for source in (*inputs, *own)}, members))
        show(
            sight,
            "tables",
            Tables(
                {source: Position(9_000 - lags[source], 0) for source in inputs},
                [
                    Lane(lane, 40 + lane if lane % 2 else None, 43 if lane % 2 else None, 0.1 * lane)
                    for lane in PARTITIONS
                ],
                [Holder(slot, 4_711, f"10.0.0.{slot + 4}", 3_720.0 if slot else 41.0) for slot in (0, 1)],
            ),
        )
        show(sight, "status", Status([], [], [], [str(member) for member in members]))
        show(sight, "waits", Waits([], [], [], [], []))
        for rates, sources in ((sight.published, own), (sight.handled, inputs)):
            rate(rates, dict.fromkeys(sources, PER_SECOND[name] / 4))
        sight.slots.changes.extend(
            Change(datetime(2026, 11, 30, 9, 41, second, tzinfo=UTC), 0, what)
            for second, what in (
                (7, "lost: the worker has ended, or its session has"),
                (8, "taken, 1.1 s after it was lost"),
            )
        )

    def break_payment(self) -> None:
        """Let no worker of payment be up, and dead letters wait in order."""
        payment, order = self.board.sights["payment"], self.board.sights["order"]
        before: Any = payment.tables.answer
        show(payment, "tables", before.found._replace(holders=[]))
        before = payment.topics.answer
        show(payment, "topics", before.found._replace(members=[]))
        show(payment, "status", Status([], [], [], []))
        show(order, "waits", Waits([Alike("payment.events", "Reject", 14, 2_580.0)], [], [], [], []))


def show(sight: Sight, look: str, found: Any) -> None:
    """Let a look have found something, for as long as the test lasts."""
    getattr(sight, look).answer = Answer(found, time.monotonic() + 86_400)


def rate(rates: Rates, per_second: Mapping[Input, float]) -> None:
    """Let counters have grown at these rates."""
    rates._samples.extend(
        (at, {source: int(1_000 + at * each) for source, each in per_second.items()}) for at in (0.0, 4.0)
    )


def fill(dsn: str) -> None:
    """Put dead letters, parked keys and scheduled events into the database of order."""
    value = json.dumps(
        {"order_id": "o-4711", "amount": "129.90", "currency": "EUR", "lines": [{"sku": "kettle", "n": 2}]}
    )
    engine = create_engine(dsn)
    with engine.begin() as connection:
        for n in range(14):
            head = {
                "ce_specversion": "1.0",
                "ce_id": f"payment:order.events-1.0.{4_100 + n}.PaymentCaptured.0",
                "ce_type": "PaymentCaptured.v1",
                "ce_source": "payment",
                "ce_time": "2026-11-24T08:58:12Z",
                "note": HOSTILE if n == 1 else "none",
            }
            connection.execute(
                text(
                    """
                    INSERT INTO exactly_once_dead_letter (topic, partition, "offset", epoch, key, value, headers, error,
                        detail, traceback, set_aside_at)
                    VALUES ('payment.events', 1, :offset, 0, 'o-4711', :value, CAST(:headers AS jsonb), 'Reject',
                        :detail, :traceback, '2026-11-24T08:58:13Z')
                    """
                ),
                {
                    "offset": 4_100 + n,
                    "value": (value if n != 1 else json.dumps({"note": HOSTILE})).encode(),
                    "headers": json.dumps([(k, base64.b64encode(v.encode()).decode()) for k, v in head.items()]),
                    "detail": "order o-4711 is not known here" if n != 1 else HOSTILE,
                    "traceback": "services/order/handlers.py:88 in pay\nshared/postgres/handlers.py:141 in _run",
                },
            )
        edited = json.loads(value) | {"note": HOSTILE}
        written = json.dumps(edited, separators=(",", ":"))
        told = {"reason": "the shop had sent it without its note", "by": "grace", "bytes": len(written)}
        connection.execute(
            text(
                """
                INSERT INTO exactly_once_decision (command, source, before, after)
                VALUES ('dead-letters edit', 'dead letter 6', '{"id": 6}', CAST(:after AS jsonb))
                """
            ),
            {"after": json.dumps({**told, "value": written})},
        )
        lane = connection.execute(text("SELECT min(lane) FROM exactly_once_lane")).scalar_one()
        if lane is None:
            connection.execute(text("INSERT INTO exactly_once_lane (lane) VALUES (0)"))
        for n in range(3):
            connection.execute(
                text(
                    """
                    INSERT INTO exactly_once_schedule (name, due, lane, hash, topic, key, event_id, event_type,
                        event_version, data)
                    VALUES (:name, clock_timestamp() + make_interval(mins => :minutes), 0, 0, 'order.events', :key,
                        :name, 'ReservationExpired', 1, '{}')
                    """
                ),
                {"name": f"reservation o-47{n}2", "minutes": 12 + 9 * n, "key": f"o-47{n}2"},
            )
    engine.dispose()


@contextmanager
def served(application: Any) -> Iterator[str]:
    """Serve the console on a free port."""
    server = uvicorn.Server(
        uvicorn.Config(application, port=0, log_config=None, access_log=False, ws="none", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, "the console is served")
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(SECONDS_MAX)
