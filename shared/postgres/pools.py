"""How many connections of each pool are in use, read when the metrics are."""

import weakref
from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Engine, QueuePool


class Pools(Collector):
    """Two gauges by the name of a pool. One that is gone is not shown."""

    def __init__(self) -> None:
        self._pools: dict[str, weakref.ref[QueuePool]] = {}

    def watch(self, name: str, engine: Engine) -> Engine:
        """Show the pool of `engine` under `name`, instead of an earlier one; return the engine."""
        if isinstance(engine.pool, QueuePool):
            self._pools[name] = weakref.ref(engine.pool)
        return engine

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield the names without values."""
        yield from _families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what is in use now."""
        in_use, most = _families()
        for name, found in list(self._pools.items()):
            if (pool := found()) is not None:
                in_use.add_metric([name], pool.checkedout())
                most.add_metric([name], pool.size())
        yield from (in_use, most)


def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily(
            "exactly_once_database_connections_in_use", "Connections in use now, by pool", labels=["pool"]
        ),
        GaugeMetricFamily(
            "exactly_once_database_connections_max", "Connections that the pool may open", labels=["pool"]
        ),
    )


POOLS = Pools()
REGISTRY.register(POOLS)
