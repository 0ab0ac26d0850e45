"""Which services a console shows: those beside the one that starts it, each with its own reason if it cannot be."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import containers, providers

from shared.console import estate
from shared.console.estate import Absent, Known
from shared.container import ServiceContainer
from shared.errors import Misconfigured
from tests.unit.console.desk import settings, shop

GOOD = """
from dependency_injector import containers, providers
from shared.container import ServiceContainer
from shared.service import Service

@containers.copy(ServiceContainer)
class Container(ServiceContainer):
    service = providers.Object(Service("good"))
"""
BESIDE = {
    "good": GOOD,
    "broken": "raise RuntimeError('swordfish is not the reason')",
    "plain": "",
    "wrong": GOOD.replace('"good"', '"wrong"') + "    settings_class = providers.Callable(lambda: 1 / 0)\n",
}


@containers.copy(ServiceContainer)
class ShopContainer(ServiceContainer):
    service = providers.Object(shop())


def shop_with(**more: Any) -> Any:
    container: Any = ShopContainer()
    container.settings.override(providers.Object(settings(**more)))
    return container


@pytest.fixture
def neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with services beside `shop`."""
    name = f"street_{tmp_path.name.replace('-', '_')}"
    for service, text in BESIDE.items():
        (tmp_path / name / service).mkdir(parents=True)
        (tmp_path / name / service / "__init__.py").touch()
        (tmp_path / name / service / "container.py").write_text(text)
    (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(estate, "packages_beside", lambda: [f"{name}.{service}" for service in sorted(BESIDE)])
    for variable, value in (("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"), ("DATABASE_URL", "postgresql://h/{service}")):
        monkeypatch.setenv(variable, value)
    yield name
    for module in [found for found in sys.modules if found.startswith(name)]:
        del sys.modules[module]


@pytest.mark.usefixtures("bare_environment", "neighbours")
def test_a_neighbour_that_cannot_be_loaded_is_shown_as_such_and_the_others_work() -> None:
    found = estate.find(shop_with())

    assert [(one.name, type(one)) for one in found] == [
        ("broken", Absent),
        ("good", Known),
        ("plain", Absent),
        ("shop", Known),
        ("wrong", Absent),
    ]
    reasons = {one.name: one.why for one in found if isinstance(one, Absent)}
    assert "broken cannot be loaded: RuntimeError: swordfish is not the reason" in reasons["broken"]
    assert "has 0 containers of a service" in reasons["plain"]
    assert "ZeroDivisionError" in reasons["wrong"]


@pytest.mark.usefixtures("bare_environment", "neighbours")
def test_only_those_that_are_named_are_shown() -> None:
    assert [one.name for one in estate.find(shop_with(), ["good"])] == ["good"]
    with pytest.raises(Misconfigured, match=r"--service nowhere: there is no such service; there are broken, good"):
        estate.find(shop_with(), ["shop", "nowhere"])


@pytest.mark.usefixtures("bare_environment", "neighbours")
def test_where_all_would_be_looked_for_in_one_database_there_is_one_service() -> None:
    container = shop_with(database_url="postgresql://me@127.0.0.1:1/shop")

    assert [one.name for one in estate.find(container)] == ["shop"]
    with pytest.raises(Misconfigured, match=r"--service good: DATABASE_URL leads to the database of shop"):
        estate.find(container, ["good"])


def test_what_reads_is_apart_from_what_acts() -> None:
    found = estate.known(shop_with(console_database_url="postgresql://reader@127.0.0.1:1/{service}"))

    assert (found.reading.engine.url.username, found.acting.engine.url.username) == ("reader", "me")
    assert found.reading.engine.url.database == found.acting.engine.url.database == "shop"
