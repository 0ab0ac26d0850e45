"""The intake chooses the next batch."""

import pytest

from shared.errors import HandlerStuck, HandlingFailed, ProcessEnded, Retry, ServiceBroken
from shared.protocol.attempts import ENDS, Attempt
from shared.protocol.intake import BATCH_BYTES, STRIKES, Intake
from shared.protocol.ports import Input, Polled, Record

SOURCE = Input("told", 0)


def intake(*sizes: int, retries: int = 0) -> Intake:
    made = Intake([SOURCE], records_max=100, retries_max=retries)
    records = [Record(SOURCE, offset, b"key", b"x" * size, None) for offset, size in enumerate(sizes)]
    made.add(Polled(records, {}, None, "member"))
    return made


def offsets(made: Intake) -> list[int]:
    return [record.offset for record in made.batch()]


def test_a_batch_is_bounded_in_bytes_too() -> None:
    """Some records that unpack to 99 MB each, in one transaction, took longer than the watchdog allows."""
    assert offsets(intake(BATCH_BYTES // 2, BATCH_BYTES // 2, 1, 1)) == [0, 1]


def test_a_record_above_the_bound_is_handled_alone() -> None:
    made = intake(BATCH_BYTES + 1, BATCH_BYTES + 1)

    assert offsets(made) == [0]
    made.handled(made.batch())
    assert offsets(made) == [1]


# ---- what a process that was killed had in its hands


def polled(*offsets: int, ends: dict[Input, int] | None = None) -> Polled:
    return Polled([Record(SOURCE, offset, b"key", b"", None) for offset in offsets], ends or {}, None, "member")


def attempt(offset: int, last: int, ends: int) -> Attempt:
    return Attempt(offset, last, ends, ProcessEnded())


def handled(made: Intake) -> list[int]:
    batch = made.batch()
    made.handled(batch)
    return [record.offset for record in batch]


def test_only_what_may_have_been_in_the_hands_of_a_predecessor_is_watched() -> None:
    made = Intake([SOURCE], records_max=3, retries_max=0)
    made.add(polled(0, 1, 2, 3))
    assert [made.watched([record]) for record in made.batch()] == [True, True, True]
    handled(made)
    assert [made.watched([record]) for record in made.batch()] == [False]


def test_what_comes_after_the_end_is_not_watched() -> None:
    made = Intake([SOURCE], records_max=3, retries_max=0)
    made.add(polled(0, ends={SOURCE: 1}))
    assert made.watched(made.batch())
    handled(made)
    made.add(polled(1))
    assert not made.watched(made.batch())


def test_a_batch_at_which_a_process_was_killed_is_tried_record_by_record() -> None:
    made = Intake([SOURCE], records_max=100, retries_max=0)
    made.suspect(SOURCE, attempt(0, 2, 0))
    made.add(polled(0, 1, 2, 3, 4))
    assert [handled(made) for _ in range(4)] == [[0], [1], [2], [3, 4]]


def test_a_record_at_which_processes_were_killed_waits_and_is_tried_alone() -> None:
    made = Intake([SOURCE], records_max=100, retries_max=0)
    made.suspect(SOURCE, attempt(1, 1, ENDS - 1))
    made.add(polled(0, 1, 2))
    assert (handled(made), handled(made), list(made.parked())) == ([0], [], [SOURCE])
    made.unpark(SOURCE)
    assert (handled(made), handled(made), made.parked()) == ([1], [2], {})


def test_a_record_at_which_one_process_was_killed_is_tried_alone_and_at_once() -> None:
    made = Intake([SOURCE], records_max=100, retries_max=0)
    made.suspect(SOURCE, attempt(0, 0, 1))
    made.add(polled(0, 1))
    assert (handled(made), handled(made), made.parked()) == ([0], [1], {})


def test_a_record_at_which_enough_processes_were_killed_is_set_aside() -> None:
    made = Intake([SOURCE], records_max=100, retries_max=0)
    made.suspect(SOURCE, attempt(0, 0, ENDS))
    made.add(polled(0, 1))
    assert [type(made.rejected(record)) for record in made.batch()] == [ProcessEnded]


def test_what_is_set_aside_for_the_ends_of_processes_is_so_alone() -> None:
    """Otherwise a second such record behind it ends the process before the commit, again and again."""
    killed, hung = (Intake([SOURCE], records_max=100, retries_max=0) for _ in range(2))
    killed.suspect(SOURCE, attempt(0, 0, ENDS))
    hung.beware(SOURCE, 0, STRIKES, HandlerStuck())
    for made in (killed, hung):
        made.add(polled(0, 1, 2))
        assert (handled(made), handled(made)) == ([0], [1, 2])


def test_what_the_watchdog_has_told_needs_no_pause() -> None:
    made = Intake([SOURCE], records_max=100, retries_max=0)
    made.suspect(SOURCE, attempt(0, 0, ENDS - 1))
    made.beware(SOURCE, 0, 1, HandlerStuck())
    made.add(polled(0, 1))
    assert (handled(made), handled(made)) == ([0], [1])


def test_batches_that_took_long_grow_no_more_but_a_little_at_a_time() -> None:
    made = intake(*[1] * 90)
    made.pace(20)
    made.handled(made.batch()[:10])
    assert len(made.batch()) == 20
    made.handled(made.batch())
    assert len(made.batch()) == 22


@pytest.mark.parametrize(("error", "given_up"), [(ServiceBroken("no table"), False), (Retry("closed"), True)])
def test_what_no_record_can_be_the_reason_of_waits_for_ever(error: Exception, given_up: bool) -> None:
    made = intake(1, 1, retries=3)
    record = made.batch()[0]
    for _ in range(10):
        made.unpark(SOURCE)
        failure = HandlingFailed(record)
        failure.__cause__ = error
        made.failed(failure, [record])
        if made.rejected(record):
            break

    assert (made.rejected(record) is not None) is given_up
    assert bool(made.parked()) is not given_up
    assert given_up or made.waits_for(SOURCE) == (record, error)
