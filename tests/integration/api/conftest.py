"""The API of each service on its own database, and a client for it."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from dev.servers import Servers
from services.inventory.container import InventoryContainer
from services.order.container import OrderContainer
from services.order.settings import OrderSettings
from services.payment.container import PaymentContainer
from shared.postgres import engine
from shared.settings import Settings
from shared.telemetry import metrics
from shared.testing.api import Api, served
from shared.testing.databases import migrated

LOCK_TIMEOUT_MS = 700
"""Tests wait for it; the real one is longer."""


@pytest.fixture(scope="module")
def settings(servers: Servers) -> Iterator[Settings]:
    """Settings of new databases with tables."""
    with pytest.MonkeyPatch.context() as patch, migrated(servers.postgres, "order", "inventory", "payment") as found:
        metrics.configure(found)  # without it, structlog would format every local of a traceback, for seconds
        patch.setattr(engine, "LOCK_TIMEOUT_MS", LOCK_TIMEOUT_MS)
        patch.setattr("services.order.api.settings", OrderSettings.model_construct)
        yield found


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[type[Any], Settings], Api]]:
    """Serve more APIs until the end of the module."""
    with ExitStack() as stack:
        yield lambda container_class, settings: stack.enter_context(served(container_class, settings))


@pytest.fixture(scope="module")
def orders(settings: Settings) -> Iterator[Api]:
    with served(OrderContainer, settings) as api:
        yield api


@pytest.fixture(scope="module")
def stock(settings: Settings) -> Iterator[Api]:
    with served(InventoryContainer, settings) as api:
        yield api


@pytest.fixture(scope="module")
def accounts(settings: Settings) -> Iterator[Api]:
    with served(PaymentContainer, settings) as api:
        yield api


@pytest.fixture
def name() -> str:
    """Return a name that no other test uses."""
    return f"n-{uuid.uuid4().hex[:16]}"
