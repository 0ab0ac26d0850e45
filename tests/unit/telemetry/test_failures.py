"""A failure's report says where and about which record, and never has a variable's value."""

from pathlib import PurePath

import pytest

from shared.protocol.ports import Input, Record
from shared.telemetry import failures

CANARY = "canary-4711"


def fails(depth: int, value: str) -> None:
    """Fail with a value at hand, `depth` calls further down."""
    hidden = value * 2
    if depth:
        fails(depth - 1, hidden[: len(value)])
    raise LookupError(hidden)


def caught(depth: int = 0) -> Exception:
    try:
        try:
            fails(depth, CANARY)
        except LookupError as error:
            raise RuntimeError from error
    except RuntimeError as error:
        return error
    raise AssertionError


def test_the_frames_of_the_service_come_first_and_the_innermost_of_them_first_of_all() -> None:
    with pytest.raises(TypeError) as caught:
        PurePath("a").relative_to(3)  # type: ignore[arg-type]
    lines = failures.frames(caught.value).splitlines()
    assert lines[0] == "TypeError"
    assert lines[1].startswith("  tests/unit/telemetry/test_failures.py:")
    assert "in test_the_frames" in lines[1]
    assert "pathlib" in lines[2]


def test_no_value_and_no_message_is_in_the_frames() -> None:
    told = failures.frames(caught())
    assert "caused by LookupError" in told
    assert "in fails: raise LookupError(hidden)" in told
    assert CANARY not in told


@pytest.mark.parametrize("depth", [10, 900])
def test_however_deep_it_failed_it_is_told_in_a_few_lines(depth: int) -> None:
    told = failures.frames(caught(depth))
    assert len(told.splitlines()) <= failures.CAUSES_MAX * (1 + 2 * failures.FRAMES_MAX)
    assert len(told) < 10_000


def test_an_error_without_words_says_its_type() -> None:
    assert failures.describe(caught()) == ("RuntimeError", "RuntimeError without a message")
    assert failures.describe(ValueError("  ")) == ("ValueError", "ValueError without a message")


def test_an_error_that_cannot_be_printed_is_named_nevertheless() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RecursionError

    assert failures.describe(Silent()) == ("Silent", "it cannot be printed: RecursionError")


def test_a_record_is_named_in_bounds_and_without_control_characters() -> None:
    headers = [("ce_type", b"Asked.v1"), ("ce_id", b"\x1b[31m\xff"), ("other", None)]
    record = Record(Input("asked", 3), 17, b"k" * 100_000, b"{}", headers)
    facts = failures.facts(record)
    assert (facts["topic"], facts["partition"], facts["offset"]) == ("asked", 3, 17)
    assert facts["event_type"] == "Asked.v1"
    assert facts["event_id"] == "\\u001b[31m\\\\xff"
    assert facts["key"] == "k" * failures.KEY_MAX
    assert failures.facts(Record(Input("asked", 0), 0, None, None, None))["key"] is None
