"""Batch handlers on real servers: what they publish, what becomes of a record that fails them, and of duplicates."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert

from dev.servers import Servers
from shared.events import Event
from shared.service import Service
from shared.session import Session
from tests.faults import trail
from tests.faults.trail import Effect, Switch, Trail
from tests.integration.tallies import Tallies

COUNTED = text("""
    SELECT key, count(*), array_agg(number ORDER BY nth), CAST('{}' AS bigint[])
    FROM unnest(CAST(:keys AS text[]), CAST(:numbers AS bigint[])) WITH ORDINALITY AS given (key, number, nth)
    GROUP BY key ORDER BY key
""")

TOO_LARGE = 2**63
"""A number that the column of an effect does not hold."""


def batched(kit: trail.Kit, calls: list[int]) -> trail.Kit:
    """Return the small service with a batch handler, which notes how many events each of its calls had."""
    service = Service(kit.service.name, publishes=(kit.told,))

    @service.on_batch(kit.asked)
    def handle(events: Sequence[trail.Asked], session: Session) -> Iterable[tuple[trail.Asked, Event]]:
        calls.append(len(events))
        for failure in session.scalars(select(Switch.name)).all():
            for event in events:
                if event.wish == f"while {failure}":
                    raise trail.FAILURES[failure](f"{failure} {event.number}")
        session.execute(insert(Effect), [{"key": event.trail, "number": event.number} for event in events])
        given = COUNTED.bindparams(
            keys=[event.trail for event in events], numbers=[event.number for event in events]
        ).columns(Trail.key, Trail.steps, Trail.handled, Trail.requested)
        made = upsert(Trail).from_select(["key", "steps", "handled", "requested"], given)
        made = made.on_conflict_do_update(
            index_elements=["key"],
            set_={"steps": Trail.steps + made.excluded.steps, "handled": Trail.handled + made.excluded.handled},
        )
        steps = dict(session.execute(made.returning(Trail.key, Trail.steps)).all())
        following = Counter(event.trail for event in events)
        for event in events:
            following[event.trail] -= 1
            yield (
                event,
                kit.told(trail=event.trail, step=steps[event.trail] - following[event.trail], number=event.number),
            )

    return trail.Kit(service, kit.asked, kit.told)


@pytest.fixture
def calls() -> list[int]:
    """How many events each call of the batch handler had."""
    return []


@pytest.fixture
def tallies(servers: Servers, calls: list[int]) -> Iterator[Tallies]:
    with Tallies(servers) as made:
        made.kit = batched(made.kit, calls)
        yield made


def told(tallies: Tallies) -> dict[int, str]:
    """Return the number and the id of each event published, without the name of the service."""
    return {number: event_id.replace(tallies.name, "") for number, event_id in tallies.consumed()}


def set_aside(tallies: Tallies) -> list[str]:
    """Return the offset and error of each record that was set aside."""
    return tallies.sql("SELECT \"offset\" || ' ' || error FROM exactly_once_dead_letter ORDER BY id")


def ask(tallies: Tallies) -> None:
    for number in range(30):
        tallies.ask(number, key=f"key-{number % 4}")


def test_ids_are_those_of_a_handler_of_one_event(servers: Servers, tallies: Tallies, calls: list[int]) -> None:
    """However the records are divided into batches."""
    ask(tallies)
    tallies.work(records=7)
    with Tallies(servers) as one_by_one:
        ask(one_by_one)
        one_by_one.work()
        assert set_aside(tallies) == []
        assert told(tallies) == told(one_by_one)
        assert tallies.numbers() == one_by_one.numbers()
        assert sorted(tallies.effects()) == sorted(one_by_one.effects())
    assert max(calls) > 1
    assert sum(calls) == 30


def test_a_record_that_fails_a_batch_is_found_and_set_aside_alone(tallies: Tallies, calls: list[int]) -> None:
    """One that PostgreSQL refuses, and one that the handler does: between others, which all take effect."""
    tallies.sql("INSERT INTO switch VALUES ('reject')")
    tallies.ask(*range(20))
    tallies.ask(TOO_LARGE)
    tallies.ask(*range(20, 30))
    tallies.ask(30, wish="reject")
    tallies.ask(*range(31, 40))

    tallies.work()

    assert set_aside(tallies) == ["20 DataError", "31 Reject"]
    assert tallies.effects() == [*range(30), *range(31, 40)]
    assert "test_batches.py" in tallies.sql("SELECT traceback FROM exactly_once_dead_letter ORDER BY id")[0]
    assert tallies.numbers() == dict.fromkeys((*range(30), *range(31, 40)), 1)
    assert calls.count(1) < 15, "the others are handled together"

    tallies.sql("DELETE FROM switch")
    assert tallies.run("dead-letters redrive 2") == 0
    tallies.work()
    assert told(tallies)[30] == ":.asked-0.0.31.Told.0", "under the id of its record"
    assert tallies.effects()[-1] == 30


def test_a_duplicate_reaches_no_batch_handler(tallies: Tallies, calls: list[int]) -> None:
    tallies.ask(1, 2, 3, 2)
    tallies.ask(3, 4)
    tallies.work()
    tallies.ask(1, 5)
    tallies.work()
    assert (tallies.effects(), set_aside(tallies)) == ([1, 2, 3, 4, 5], [])
    assert sum(calls) == 5
    assert tallies.numbers() == dict.fromkeys(range(1, 6), 1)
