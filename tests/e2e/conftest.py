"""One system for all tests that look at it and leave it as it was; those that kill have their own."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from dev.servers import Servers
from dev.system import Shape, System
from tests.e2e.collector import Collector
from tests.e2e.customer import Customer


class Shop(NamedTuple):
    """The services at work, a customer, and the collector to which they send their spans."""

    system: System
    customer: Customer
    collector: Collector


@pytest.fixture(scope="session")
def shop(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Start every process once, with traces."""
    with Collector() as collector:
        settings = {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        shape = Shape(partitions=1, workers=1, callers=1, settings=settings)
        with System(servers, shape, logs=tmp_path_factory.mktemp("logs")) as system, Customer(system) as customer:
            yield Shop(system, customer, collector)
