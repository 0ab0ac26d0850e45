"""The table of what each pair of positions in Kafka and Postgres means, for an input and for a lane."""

import pytest

from shared.errors import DatabaseWentBack, KafkaWentBack, PositionMissing, RecordsLost, Stop
from shared.protocol.ports import REPORTED, Claim, Committed, Input, Position
from shared.protocol.verdicts import Comparison, compare_input, compare_lane, compare_reach

SOURCE = Input("order.events", 2)


@pytest.mark.parametrize(
    ("committed", "row", "comparison"),
    [
        (None, None, Comparison.FIRST),
        (None, 7, Comparison.AGREED),  # nothing was reported yet; the next offset alone rules
        (6, 7, Comparison.AGREED),
        (7, 7, Comparison.AGREED),
        (8, 7, DatabaseWentBack),
        (0, None, PositionMissing),
        (8, None, PositionMissing),
    ],
)
def test_an_input(committed: int | None, row: int | None, comparison: Comparison | type[Stop]) -> None:
    offset = None if committed is None else Committed(committed, "")
    position = None if row is None else Position(row, 0)
    if isinstance(comparison, Comparison):
        assert compare_input("shop", SOURCE, offset, position) is comparison
        return
    with pytest.raises(comparison) as stop:
        compare_input("shop", SOURCE, offset, position)
    assert str(committed) in str(stop.value)
    assert "python -m services.shop positions" in str(stop.value)
    assert "--target 'order.events[2]'" in str(stop.value)


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        (REPORTED, "the database is an older state"),
        ("", "another consumer uses this group and committed it"),
        ("of a stranger", "another consumer uses this group and committed it"),
    ],
)
def test_who_may_have_committed_above_the_next_offset_is_named_and_what_loses_nothing_comes_first(
    mark: str, words: str
) -> None:
    with pytest.raises(DatabaseWentBack) as stop:
        compare_input("shop", SOURCE, Committed(8, mark), Position(7, 0))
    message = str(stop.value)
    assert words in message
    assert ("another consumer" in message) == (mark != REPORTED)
    assert message.index("positions rewind") < message.index("positions skip")


def test_a_position_that_is_missing_may_never_have_been_ours() -> None:
    with pytest.raises(PositionMissing, match="another consumer committed in this group") as stop:
        compare_input("shop", SOURCE, Committed(8, ""), None)
    message = str(stop.value)
    assert message.index("positions rewind") < min(message.index("positions skip"), message.index("positions adopt"))
    with pytest.raises(PositionMissing) as ours:
        compare_input("shop", SOURCE, Committed(8, REPORTED), None)
    assert "another consumer" not in str(ours.value)


@pytest.mark.parametrize(
    ("published", "kind", "words"),
    [
        (Committed(5, "x"), DatabaseWentBack, "the database is an older state, or a tool set this offset"),
        (Committed(1, "x"), KafkaWentBack, "Kafka lost a commit, or a tool set this offset of the group back"),
        (None, PositionMissing, "it expired or was deleted"),
    ],
)
def test_of_a_lane_each_cause_is_named_and_what_loses_nothing_comes_first(
    published: Committed | None, kind: type[Stop], words: str
) -> None:
    with pytest.raises(kind, match=words) as stop:
        compare_lane("shop", 3, published, Claim(3, "y", rows=1), published_read_last=True)
    message = str(stop.value)
    adopt, rewind, skip = (message.index(f"positions {choice}") for choice in ("adopt", "rewind", "skip"))
    assert adopt < min(rewind, skip)


@pytest.mark.parametrize(
    ("position", "kind", "words"),
    [
        (2, RecordsLost, "retention or a tool removed records"),
        (10, KafkaWentBack, "by an unclean election or a restored broker"),
    ],
)
def test_what_a_topic_lacks_is_told_with_each_cause(position: int, kind: type[Stop], words: str) -> None:
    with pytest.raises(kind, match=words):
        compare_reach("shop", SOURCE, position, 3, 9)
    for within in (3, 9):
        compare_reach("shop", SOURCE, within, 3, 9)


@pytest.mark.parametrize(
    ("published", "claim", "at_first", "in_the_end"),
    [
        (None, (0, ""), Comparison.FIRST, Comparison.FIRST),
        ((0, ""), (0, ""), Comparison.AGREED, Comparison.AGREED),  # nothing was ever claimed
        ((0, ""), (1, "x"), Comparison.AGREED, Comparison.AGREED),  # the first claim is pending
        ((1, "x"), (1, "x"), Comparison.AGREED, Comparison.AGREED),
        ((1, "x"), (2, "y"), Comparison.AGREED, Comparison.AGREED),
        (
            (1, "x"),
            (2, "x"),
            Comparison.AGREED,
            Comparison.AGREED,
        ),  # the published position of the last claim never counts for the next
        (None, (1, "x"), Comparison.LOW, PositionMissing),
        (None, (9, "x"), Comparison.LOW, PositionMissing),
        ((1, "x"), (3, "y"), Comparison.LOW, KafkaWentBack),
        ((0, ""), (9, "y"), Comparison.LOW, KafkaWentBack),
        ((2, "x"), (1, "y"), DatabaseWentBack, DatabaseWentBack),
        ((2, "x"), (1, "x"), DatabaseWentBack, DatabaseWentBack),
        ((1, "x"), (0, ""), DatabaseWentBack, DatabaseWentBack),
        ((1, "x"), (1, "y"), DatabaseWentBack, DatabaseWentBack),  # the same number under another claim id
        ((1, ""), (1, "y"), DatabaseWentBack, DatabaseWentBack),
        (None, None, PositionMissing, PositionMissing),
        ((4, "x"), None, PositionMissing, PositionMissing),
    ],
)
def test_a_lane(
    published: tuple[int, str] | None,
    claim: tuple[int, str] | None,
    at_first: Comparison | type[Stop],
    in_the_end: Comparison | type[Stop],
) -> None:
    p = None if published is None else Committed(*published)
    row = None if claim is None else Claim(*claim, rows=1)
    for comparison, published_read_last in ((at_first, False), (in_the_end, True)):
        if isinstance(comparison, Comparison):
            assert compare_lane("shop", 3, p, row, published_read_last=published_read_last) is comparison
            continue
        with pytest.raises(comparison) as stop:
            compare_lane("shop", 3, p, row, published_read_last=published_read_last)
        assert "lane 3" in str(stop.value)
        assert "python -m services.shop positions" in str(stop.value)
        for number in (published, claim):
            assert number is None or str(number[0]) in str(stop.value)
