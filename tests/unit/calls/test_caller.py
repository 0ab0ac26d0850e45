"""What one attempt leaves behind, however it ends. The database and the destination are the rim here."""

import asyncio
import time
from typing import Any, ClassVar, cast

import pytest
from sqlalchemy import create_engine

from shared import Event, Id, Service, Session
from shared.calls import Answer, Call, Destination, Done, GivenUp, Request, Verdict
from shared.calls.caller import Caller, Lane
from shared.calls.exchange import Exchange
from shared.calls.outbox import CallingOutbox
from shared.calls.queue import Due, Overtaken
from shared.settings import Settings
from shared.testing import until

BANK = Destination("bank", url=lambda _: "http://localhost:1", failures_max=1, rest_seconds=0.001)


class Ask(Call, key="bill"):
    """Ask."""

    destination = BANK
    fails: ClassVar[BaseException | None] = None

    bill: Id

    def request(self) -> Request:
        if self.fails:
            raise self.fails
        return Request("POST", "/")

    def answered(self, _answer: Answer, _session: Session) -> Verdict:
        return Done()

    def given_up(self, _why: GivenUp, _session: Session) -> Event | None:
        return None


DUE = Due(1, "bank", "b-1", "pay:1", "Ask", 1, b'{"bill": "b-1"}', None, 1, 1, False, False, False, None)


class Bank:
    """Answers nothing: whoever asks is cancelled."""

    async def ask(self, *_: Any) -> Answer:
        raise asyncio.CancelledError


@pytest.fixture
def caller(monkeypatch: pytest.MonkeyPatch) -> Caller:
    settings = Settings.model_validate(
        {"database_url": "postgresql://localhost:1/none", "kafka_bootstrap_servers": "localhost:1"}
    )
    service = Service("pay")
    engine = create_engine("postgresql+psycopg://localhost:1/none")
    made = Caller(
        settings=settings,
        service=service,
        engine=engine,
        outbox=CallingOutbox(service, 1_000, (Ask,)),
        check=lambda: None,
    )

    def overtaken(*_: Any, **__: Any) -> None:
        raise Overtaken

    monkeypatch.setattr(made._settling, "stuck", overtaken)
    return made


@pytest.mark.parametrize(
    "fails", [ValueError("no"), asyncio.CancelledError(), None], ids=["error", "cancelled", "asked"]
)
def test_a_breaker_tries_again_whatever_became_of_the_call_that_tried(
    caller: Caller, fails: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ask, "fails", fails)
    lane = Lane(BANK, cast("Exchange", Bank()))
    lane.breaker.failed()
    until(lambda: lane.breaker.room(8) == 1, "one call may try")
    lane.breaker.starts()
    assert lane.breaker.room(8) == 0

    async def story() -> None:
        with pytest.raises((Overtaken, asyncio.CancelledError)):
            await caller._attempt(lane, DUE, time.monotonic())

    asyncio.run(story())
    assert lane.breaker.room(8) == 1
