"""The transaction of a cycle: how often it waits for PostgreSQL."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import TextClause, text

from dev.servers import Servers
from shared.calls import outbox as calls
from shared.postgres import inbox, outbox, parked, positions, schedule
from shared.postgres.transaction import WorkerDatabase
from shared.protocol.ports import Arrival
from shared.scheduling import Change, moment
from tests.contract import real
from tests.contract.real import RealWorld
from tests.round_trips import counted

TRIPS_MAX = 4
"""BEGIN, positions and inbox; what is written, and the claims' locks; the claims and their rows; COMMIT."""

PLANS_MAX = 5
"""PostgreSQL plans a prepared statement five times for its values; then it compares that with a plan for any values."""

SMALL = {"exactly_once_lane", "exactly_once_position", "exactly_once_parked"}
"""Tables that do not grow; and one of which only the first row is read."""

ROUNDS = 8
"""The driver prepares a statement when it is executed for the sixth time; that takes a round trip of its own."""


@pytest.fixture
def world(servers: Servers) -> Iterator[RealWorld]:
    with real.database(servers), RealWorld(servers) as world:
        yield world


def raw(database: WorkerDatabase) -> Any:
    assert database._connection is not None
    return database._connection.connection.driver_connection


def handlers_alone(world: RealWorld, database: WorkerDatabase, number: int) -> int:
    """Count the round trips of a batch's handlers, and of the flush after them."""
    with counted(raw(database)) as trips:
        transaction = database.begin()
        transaction.handle([world.delivery(number)])
        transaction._session.flush()
        transaction.rollback()
    return trips.number - 2  # BEGIN and ROLLBACK


def whole_batch(world: RealWorld, database: WorkerDatabase, number: int) -> int:
    """Count those of a batch as the cycle does it, with a claim to forget and one to make."""
    source, _ = world.inputs
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
    return trips.number


def scheduling(world: RealWorld, database: WorkerDatabase, number: int) -> int:
    """Count those of a batch whose handler has scheduled an event, cancelled another, and looked at no answer."""
    source, _ = world.inputs
    with counted(raw(database)) as trips:
        transaction = database.begin()
        transaction.receive([source], [Arrival(source, number, "test", str(number))])
        transaction.handle([world.delivery(number)])
        session = transaction._session
        (pending,) = session.collected
        soon = Change("soon", moment(timedelta(hours=1), None), session.settle)
        soon.pending = pending._replace(event_id=f"soon-{number}")
        session.changes = {"soon": soon, "gone": Change("gone", None, session.settle)}
        transaction.write_outbox()
        transaction.advance({source: number + 1})
        transaction.lock_claims((0, 1))
        transaction.forget((0,))
        transaction.claim({0: 100, 1: 100}, ())
        transaction.commit()
    return trips.number


def asked(database: WorkerDatabase) -> int:
    """Count those of a look at the outbox."""
    with counted(raw(database)) as trips:
        database.unpublished((0, 1))
    return trips.number


@pytest.fixture
def database(world: RealWorld) -> WorkerDatabase:
    made = world.database()
    made.start_positions({world.inputs[0]: 0})
    assert isinstance(made, WorkerDatabase)
    return made


def test_a_batch_takes_four_round_trips_beside_those_of_its_handlers(
    world: RealWorld, database: WorkerDatabase
) -> None:
    own = [handlers_alone(world, database, number) for number in range(ROUNDS)]
    batches = [whole_batch(world, database, number) for number in range(ROUNDS)]
    assert own[-1] > 0
    assert batches[-1] - own[-1] <= TRIPS_MAX


def test_a_batch_that_changes_the_schedule_takes_no_more(world: RealWorld, database: WorkerDatabase) -> None:
    own = [handlers_alone(world, database, number) for number in range(ROUNDS)]
    batches = [scheduling(world, database, number) for number in range(ROUNDS)]
    assert batches[-1] - own[-1] <= TRIPS_MAX


def test_a_plan_is_kept_for_all_batches(world: RealWorld, database: WorkerDatabase) -> None:
    for number in range(6 * ROUNDS):
        work = scheduling if number % 2 else whole_batch
        work(world, database, number)
        asked(database)
    assert database._connection is not None
    prepared = database._connection.execute(
        text("SELECT custom_plans, trim(E' \\n' FROM statement) FROM pg_prepared_statements")
    ).all()
    again = {statement for plans, statement in prepared if plans > PLANS_MAX and "exactly_once_" in statement}
    assert len(prepared) > 10
    assert not again


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (module, name)
        for module in (calls, inbox, outbox, parked, positions, schedule)
        for name, value in vars(module).items()
        if isinstance(value, TextClause) and "(SELECT :" in value.text
    ],
    ids=lambda given: given if isinstance(given, str) else given.__name__,
)
def test_no_plan_that_is_kept_from_an_empty_table_reads_all_of_it(
    servers: Servers,
    world: RealWorld,
    module: Any,
    name: str,
) -> None:
    numbers: dict[str, int] = {}

    def numbered(found: re.Match[str]) -> str:
        return f"${numbers.setdefault(found[1], len(numbers) + 1)}"

    query = re.sub(r"(?<![:\w]):(\w+)", numbered, vars(module)[name].text)
    with psycopg.connect(servers.postgres.dsn(real.DATABASE), autocommit=True) as connection:
        lines = connection.execute(f"EXPLAIN (GENERIC_PLAN, COSTS OFF) {query}".encode()).fetchall()
    whole = {line.partition("Seq Scan on ")[2].split()[0] for (line,) in lines if "Seq Scan on " in line}
    assert whole <= SMALL, "\n".join(line for (line,) in lines)


def test_an_idle_worker_asks_the_outbox_with_one_statement(database: WorkerDatabase) -> None:
    assert [asked(database) for _ in range(ROUNDS)][-1] <= 3, "BEGIN, the question, and the end of the transaction"
