"""docs/calls.md: its code is run, and its commands print what it shows."""

import __future__

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from dependency_injector import providers
from pydantic import SecretStr
from sqlalchemy import create_engine

from dev.servers import Postgres
from shared import command
from shared.calls import queue
from shared.calls.declaration import refuse_wrong
from shared.calls.exchange import refuse_wrong_settings
from shared.calls.queue import Budget
from shared.calls.settling import NoAnswer, Settling
from shared.container import ServiceContainer, containers
from shared.orm import bulk
from shared.postgres import ahead, tables
from shared.postgres.engine import Requests
from shared.telemetry import metrics
from shared.testing.workers import StageSettings
from tests.dev.pages import compare

PAGE = (Path(__file__).parents[3] / "docs" / "calls.md").read_text()
BLOCKS = re.findall(r"^```(sh|text|python)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


NOWHERE = {"kafka_bootstrap_servers": "localhost:1", "database_url": "postgresql://localhost:1/{service}"}


class BillingSettings(StageSettings):
    bank_url: str = "https://bank.example/v1"
    bank_token: SecretStr = SecretStr("s3cret")


@pytest.fixture
def billing() -> Iterator[Any]:
    """The code of the page as a module."""
    module: Any = ModuleType("billing_of_the_page")
    sys.modules[module.__name__] = module
    code = "".join(text for kind, text in BLOCKS if kind == "python")
    # On the page, what a block refers to is in another file: types are looked up when they are needed.
    exec(compile(code, "docs/calls.md", "exec", flags=__future__.annotations.compiler_flag), vars(module))
    yield module
    del sys.modules[module.__name__]


def test_its_code_is_accepted_and_its_test_passes(billing: Any) -> None:
    billing.test_the_bank_is_asked()
    refuse_wrong((billing.CapturePayment, billing.VoidCapture), billing.service.publishes)
    refuse_wrong_settings(billing.BANK, BillingSettings.model_validate(NOWHERE))


def test_its_commands_print_what_it_shows(
    billing: Any, postgres: Postgres, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "configure", lambda *_, **__: None)

    @containers.copy(ServiceContainer)
    class BillingContainer(ServiceContainer):
        service = providers.Object(billing.service)
        calls = providers.Object((billing.CapturePayment, billing.VoidCapture))

    postgres.create_database("billing_of_the_page")
    container: Any = BillingContainer()
    settings = {**NOWHERE, "database_url": postgres.dsn("billing_of_the_page")}
    container.settings.override(providers.Object(BillingSettings.model_validate(settings)))
    engine = create_engine(postgres.dsn("billing_of_the_page"))
    bulk.install(engine)
    ahead.install(engine)
    for metadata in (tables.metadata, billing.Base.metadata):
        metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO exactly_once_lane (lane) VALUES (0)")
        queue.know(connection, "bank")

    outbox = container.outbox()
    with Requests(engine, outbox).transaction() as session:
        session.publisher = lambda event: outbox.add(session, event)
        session.add(billing.Payment(order_id="o-1", state="ASKED"))
        for kind in (billing.CapturePayment, billing.VoidCapture):
            billing.call(session, kind(order_id="o-1", amount=500))
    with engine.begin() as connection:
        (due,) = queue.take(connection, "bank", most=1, budget=Budget(1, 0.0), seconds=9.0, caller="here").calls
    failure = NoAnswer("ConnectError: All connection attempts failed", sent=False)
    Settling(engine, outbox, "billing", outbox.calls).failed(due, failure)

    shown = [(kind, text) for kind, text in BLOCKS if kind != "python"]
    assert [kind for kind, _ in shown] == ["sh", "text"] * 4
    for (_, typed), (_, expected) in zip(shown[::2], shown[1::2], strict=True):
        words = shlex.split(typed.removeprefix("python -m services.billing "))
        assert command.run(container, words) == 0, capsys.readouterr().err
        # The widths of columns follow from ages.
        compare(re.sub(" +", " ", expected), re.sub(" +", " ", capsys.readouterr().out))
    with engine.begin() as connection:
        rows = connection.exec_driver_sql("SELECT event_type FROM exactly_once_outbox").all()
        assert [name for (name,) in rows] == ["PaymentDeclined"]
        state = connection.exec_driver_sql("SELECT state FROM payment").scalar_one()
        assert state == "DECLINED"
    engine.dispose()
    container.engine().dispose()
    postgres.drop_database("billing_of_the_page")
