"""Every provider of every service can be built: nothing else catches a provider's misspelt keyword."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import providers

from dev.service.names import Spellings

SERVICES = sorted(path.parent.name for path in Path("services").glob("*/container.py"))
AT_CALL = {"member", "producer", "kafka", "check", "look_at_topics", "stands"}
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


@pytest.mark.parametrize("name", SERVICES)
def test_clients_are_built_for_a_slot(name: str) -> None:
    client = container(name).kafka(7)

    assert callable(client.send_offsets)
    client.close()


@pytest.mark.parametrize("name", SERVICES)
def test_the_rim_can_be_replaced_by_overriding_one_provider(name: str) -> None:
    services = container(name)

    with services.worker_database.override(providers.Object("a database of the test")):
        assert services.worker()._database == "a database of the test"
