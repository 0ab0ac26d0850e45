"""What the next batch holds."""

from shared.intake import BATCH_BYTES, Intake
from shared.ports import Input, Polled, Record

SOURCE = Input("told", 0)


def intake(*sizes: int) -> Intake:
    made = Intake([SOURCE], records_max=100, retries_max=0)
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
