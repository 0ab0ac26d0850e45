"""The use of a pool is what it is when somebody asks."""

import gc

from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import NullPool, QueuePool, create_engine

from shared.postgres.pools import Pools


def test_the_connections_in_use_are_those_of_this_moment() -> None:
    registry, pools = CollectorRegistry(), Pools()
    registry.register(pools)

    def shown() -> list[str]:
        return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]

    assert shown() == []
    engine = pools.watch("api", create_engine("sqlite://", poolclass=QueuePool, pool_size=3, max_overflow=0))
    names = 'exactly_once_database_connections_{}{{pool="api"}} {}'.format
    assert shown() == [names("in_use", 0.0), names("max", 3.0)]
    with engine.connect(), engine.connect():
        assert shown()[0] == names("in_use", 2.0)
    assert shown()[0] == names("in_use", 0.0)

    engine.dispose()
    del engine
    gc.collect()
    assert shown() == [], "a pool that is gone is not shown"


def test_an_engine_without_a_pool_has_nothing_to_show() -> None:
    pools = Pools()
    pools.watch("migrations", create_engine("sqlite://", poolclass=NullPool))

    assert [family.samples for family in pools.collect()] == [[], []]
