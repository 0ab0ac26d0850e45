"""The transaction of a cycle: how often it waits for PostgreSQL."""

from collections.abc import Iterator
from typing import Any

import pytest

from dev.servers import Servers
from shared.postgres.transaction import PostgresTransaction, WorkerDatabase
from shared.protocol.ports import Arrival
from tests.contract import real
from tests.contract.real import RealWorld
from tests.round_trips import counted

TRIPS_MAX = 4
"""BEGIN, positions and inbox; what is written, and the claims' locks; the claims and their rows; COMMIT."""

ROUNDS = 8
"""The driver prepares a statement when it is executed for the sixth time; that takes a round trip of its own."""


@pytest.fixture
def world(servers: Servers) -> Iterator[RealWorld]:
    with real.database(servers), RealWorld(servers) as world:
        yield world


def raw(database: Any) -> Any:
    assert isinstance(database, WorkerDatabase)
    assert database._connection is not None
    return database._connection.connection.driver_connection


def test_a_batch_takes_four_round_trips_beside_those_of_its_handlers(world: RealWorld) -> None:
    source, _ = world.inputs
    database = world.database()
    database.start_positions({source: 0})
    for number in range(ROUNDS):
        with counted(raw(database)) as alone:
            transaction = database.begin()
            assert isinstance(transaction, PostgresTransaction)
            transaction.handle([world.delivery(number)])
            transaction._session.flush()
            transaction.rollback()
        with counted(raw(database)) as trips:
            transaction = database.begin()
            transaction.receive([source], [Arrival(source, number, "test", str(number))])
            transaction.handle([world.delivery(number)])
            transaction.set_aside([])
            transaction.write_outbox()
            transaction.advance({source: number + 1})
            transaction.lock_claims((0, 1))
            transaction.forget((0,))
            claims, rows = transaction.claim({0: 100, 1: 100}, ())
            transaction.commit()
        assert (len(claims), len(rows)) == (1, 1)
    own = alone.number - 2  # BEGIN and ROLLBACK
    assert own > 0
    assert trips.number - own <= TRIPS_MAX, trips.messages


def test_an_idle_worker_asks_the_outbox_with_one_statement(world: RealWorld) -> None:
    database = world.database()
    for _ in range(ROUNDS):
        with counted(raw(database)) as trips:
            assert not database.unpublished((0, 1))
    assert trips.number <= 3, "BEGIN, the question, and the end of the transaction"
