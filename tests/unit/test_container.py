"""Every provider of every service can be built: nothing else catches a provider's misspelt keyword."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import providers

from dev.service.names import Spellings
from shared import Session
from shared.calls import Answer, Call, Destination, Done, GivenUp, Request, Verdict
from shared.container import ServiceContainer, lazily
from shared.errors import Misconfigured
from shared.kafka.client import KafkaClient
from shared.worker.measured import MeasuredDatabase, MeasuredMember, MeasuredProducer

SERVICES = sorted(path.parent.name for path in Path("services").glob("*/container.py"))
AT_CALL = {"member", "producer", "kafka", "check", "check_caller", "look_at_topics", "stands", "caller"}
"""Providers called with a slot or in need of a server: built as the worker builds them."""


def container(name: str) -> Any:
    module = importlib.import_module(f"services.{name}.container")
    return getattr(module, f"{Spellings(name).title}Container")()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/{service}")
    monkeypatch.setenv("API_AUTH", "off")


@pytest.mark.parametrize("name", SERVICES)
def test_every_provider_is_built(name: str) -> None:
    services = container(name)
    built = {key: provider() for key, provider in services.providers.items() if key not in AT_CALL}

    assert built["service"].name == name
    assert set(built) >= {"settings", "engine", "outbox", "requests", "worker", "worker_database", "application"}


def test_a_caller_is_built_for_a_service_with_calls_and_refused_for_others() -> None:
    services = container(SERVICES[0])
    with pytest.raises(Misconfigured, match="makes no calls: set `calls = providers"):
        services.caller()

    class Pay(Call, key="bill"):
        destination = Destination("bank", url=lambda _: "https://bank.example")
        bill: str

        def request(self) -> Request:
            return Request("POST", "/")

        def answered(self, answer: Answer, session: Session) -> Verdict:
            return Done()

        def given_up(self, why: GivenUp, session: Session) -> None:
            return None

    services = container(SERVICES[0])
    services.calls.override(providers.Object((Pay,)))
    assert services.caller().ready() == (False, "starting")


@pytest.mark.parametrize("name", SERVICES)
def test_clients_are_built_for_a_slot(name: str) -> None:
    client = container(name).kafka(7)

    assert callable(client.send_offsets)
    client.close()


@pytest.mark.parametrize("name", SERVICES)
def test_without_traces_nothing_is_around_the_ports(name: str) -> None:
    """So they cost nothing: no call of a port is another one, whatever is handled."""
    services = container(name)
    client = services.kafka(7)
    producer, member = client._halves

    assert services.traces() is None
    assert [type(one) for one in (client, producer, member)] == [KafkaClient, MeasuredProducer, MeasuredMember]
    for call in ("begin", "produce", "send_offsets", "commit"):
        assert getattr(client, call) == getattr(producer, call)
    assert type(services.worker_database()) is MeasuredDatabase
    client.close()


@pytest.mark.parametrize("name", SERVICES)
def test_the_rim_can_be_replaced_by_overriding_one_provider(name: str) -> None:
    services = container(name)

    with services.worker_database.override(providers.Object("a database of the test")):
        assert services.worker()._database == "a database of the test"


def test_a_container_of_the_old_form_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^Stock sets `application`: write `routes = providers.Object\("):

        class Stock(ServiceContainer):
            application = providers.Singleton(lazily, ".http.api:make_application", routes="services.stock.api:router")


def test_a_container_may_have_an_application_of_its_own() -> None:
    class Stock(ServiceContainer):
        application = providers.Singleton(lazily, "builtins:dict", settings=ServiceContainer.settings)

    assert Stock().application().keys() == {"settings"}
