"""Where in a topic: what an operator may type, and what Kafka is asked."""

from argparse import ArgumentTypeError
from datetime import UTC, datetime, timedelta, timezone

import pytest

from shared import command
from shared.operations import moments


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("0", 0),
        ("1200", 1200),
        ("2026-11-28T09:00Z", datetime(2026, 11, 28, 9, tzinfo=UTC)),
        ("2026-11-28t09:00:00.5z", datetime(2026, 11, 28, 9, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-11-28 10:00+01:00", datetime(2026, 11, 28, 9, tzinfo=UTC)),
    ],
)
def test_what_is_read(word: str, meant: object) -> None:
    assert moments.place(word) == meant


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("2026-11-28T09:00", "does not say in which time zone: add Z"),
        ("2026-11-28", "does not say in which time zone"),
        ("2999-01-01T00:00Z", "is still to come"),
        ("9999-12-31T23:59:59-23:59", "is still to come"),
        ("0001-01-01T00:00+14:00", "is before the year 1"),
        ("end", "neither an offset nor a time"),
        ("-1", "neither an offset nor a time"),
        ("9223372036854775808", "neither an offset nor a time"),
        ("٣", "neither an offset nor a time"),
        ("", "neither an offset nor a time"),
    ],
)
def test_what_is_refused(word: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ArgumentTypeError, match=why):
        moments.place(word)
    with pytest.raises(SystemExit) as ended:
        command.parser("order").parse_args(["positions", "rewind", "--target", "inputs", f"--to={word}"])
    assert ended.value.code == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("time", "asked"),
    [
        (datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), 1_000),
        (datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC), 1),  # a record of millisecond 0 is before it
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0),
        (datetime(1, 1, 1, tzinfo=UTC), 0),  # -1 is Kafka's word for the end
        (datetime(2026, 11, 28, 9, 0, 0, 1_001, tzinfo=UTC), 1_795_856_400_002),
    ],
)
def test_the_millisecond_that_kafka_is_asked_for_is_not_before_the_time(time: datetime, asked: int) -> None:
    assert moments.milliseconds(time) == asked
