"""The intake chooses the next batch."""

from itertools import count

import pytest

from shared.errors import HandlerStuck, HandlingFailed, ProcessEnded, Retry, ServiceBroken
from shared.protocol.attempts import ENDS, PARTS, Attempt
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


def test_of_a_few_records_at_which_a_process_was_killed_each_is_tried_alone() -> None:
    made = Intake([SOURCE], records_max=100, retries_max=0)
    made.suspect(SOURCE, attempt(0, 2, 0))
    made.add(polled(0, 1, 2, 3, 4))
    assert [handled(made) for _ in range(4)] == [[0], [1], [2], [3, 4]]


def test_a_batch_at_which_a_process_was_killed_is_tried_in_parts() -> None:
    """Record by record it took minutes, whatever had killed the process."""
    made = Intake([SOURCE], records_max=2_000, retries_max=0)
    made.suspect(SOURCE, attempt(0, 999, 0))
    made.add(polled(*range(1_100)))
    batches = [handled(made) for _ in range(PARTS + 1)]
    assert [len(batch) for batch in batches] == [63] * 15 + [55, 100]
    assert [offset for batch in batches for offset in batch] == list(range(1_100))


def test_gaps_between_offsets_make_parts_smaller() -> None:
    """Compaction leaves them, even where the last record was."""
    made = Intake([SOURCE], records_max=2_000, retries_max=0)
    made.suspect(SOURCE, attempt(0, 99, 0))
    made.add(polled(0, 50, 98, 100, 101))
    assert [handled(made) for _ in range(4)] == [[0], [50], [98], [100, 101]]


def test_few_are_those_of_the_inputs_that_are_owned() -> None:
    other, foreign = Input("told", 1), Input("told", 2)
    made = Intake([SOURCE, other], records_max=100, retries_max=0)
    for source, last in ((SOURCE, 1), (other, 1), (foreign, 99)):
        made.suspect(source, attempt(0, last, 0))
    made.add(polled(0, 1))
    made.add(Polled([Record(other, offset, b"key", b"", None) for offset in (0, 1)], {}, None, "member"))
    assert [handled(made) for _ in range(4)] == [[0], [1], [0], [1]]


def test_one_record_of_an_input_that_was_in_company_is_tried_alone() -> None:
    """More inputs than parts may have been in that batch, each with one record."""
    inputs = [Input("told", number) for number in range(2 * PARTS)]
    made = Intake(inputs, records_max=100, retries_max=0)
    for source in inputs:
        made.suspect(source, attempt(0, 0, 0))
    made.add(Polled([Record(source, 0, b"key", b"", None) for source in inputs], {}, None, "member"))
    assert {len(handled(made)) for _ in inputs} == {1}


def test_what_may_end_the_process_has_nothing_else_beside_it() -> None:
    """Its note would name that too."""
    other = Input("told", 1)
    made = Intake([SOURCE, other], records_max=100, retries_max=0)
    made.suspect(SOURCE, attempt(0, 39, 0))
    made.add(Polled([Record(other, 7, b"key", b"", None)], {}, None, "member"))
    made.add(polled(*range(40)))
    batches = []
    while not made.idle():
        batches.append(handled(made))
    assert batches == [*([n, n + 1, n + 2] for n in range(0, 39, 3)), [39], [7]]


@pytest.mark.parametrize(
    ("inputs", "records", "ends"), [(1, 1_000, 3), (1, 4_096, 3), (1, 10_000, 4), (3, 333, 3), (12, 84, 3), (48, 20, 3)]
)
@pytest.mark.parametrize("place", [0.0, 0.3, 1.0])
def test_a_record_that_kills_is_alone_after_few_processes(inputs: int, records: int, ends: int, place: float) -> None:
    """Each restart takes no more batches than there are parts, until each of a few records is tried alone."""
    sources = [Input("told", number) for number in range(inputs)]
    fatal = sources[int(place * (inputs - 1))], int(place * (records - 1))
    notes: dict[Input, tuple[int, int]] = {}
    next_offsets = dict.fromkeys(sources, 0)

    def tried() -> tuple[int, int]:
        """Return how many batches a process begins, and the records of that in which it is killed."""
        made = Intake(sources, records_max=10_000, retries_max=0)
        for source, (first, last) in notes.items():
            made.suspect(source, attempt(first, last, 0))
        made.add(
            Polled(
                [Record(s, at, b"key", b"", None) for s in sources for at in range(next_offsets[s], records)],
                {},
                None,
                "member",
            )
        )
        for number in count(1):
            batch = made.batch()
            offsets = {s: [record.offset for record in batch if record.input == s] for s in {r.input for r in batch}}
            notes.update({source: (found[0], found[-1]) for source, found in offsets.items()})
            if fatal in {record[:2] for record in batch}:
                return number, len(batch)
            made.handled(batch)
            for source, found in offsets.items():
                del notes[source]
                next_offsets[source] = found[-1] + 1
        raise AssertionError

    processes = [tried() for _ in range(ends + 1)]
    batches, sizes = zip(*processes, strict=True)
    assert sizes[-1] == 1
    assert max(batches) <= max(PARTS, inputs)


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
