"""How a value is shown, and how two differ: nothing that somebody did not touch may change."""

import pytest

from shared.operations import editing
from shared.operations.editing import COMPARED_LINES_MAX, LINE_MAX, SHOWN_LINES_MAX, difference, minified, pretty, shown


def test_every_token_of_json_stays_as_it_is() -> None:
    value = b'{"a":1.10,"a":12345678901234567890.12345678901234567890,"b":[1e400,{}],"c":"\\u0000\\/"}'
    lines = pretty(value)

    assert lines is not None
    assert minified(lines.encode()) == value


def test_what_would_turn_a_page_or_a_terminal_round_is_escaped_and_means_the_same() -> None:
    value = '{"a":"\u202e\x7f\x9b \U000e0001 é"}'.encode()
    lines = pretty(value)

    assert lines == '{\n  "a": "\\u202e\\u007f\\u009b \\udb40\\udc01 é"\n}'
    assert shown(minified(value)) == shown(value)


@pytest.mark.parametrize("value", [b"", b"{", b"\xff", b'"\xff"', b"NaN", b"[" * 5_000 + b"]" * 5_000, b"{} {}"])
def test_what_is_no_json_is_left_alone(value: bytes) -> None:
    assert pretty(value) is None
    assert minified(value) == value
    assert shown(value).replace("\n", "").isprintable()


def test_a_difference_has_what_goes_and_what_comes_and_lines_around() -> None:
    before, after = (shown(f'{{"a":1,"b":2,"c":3,"d":{n},"e":5,"f":6,"g":7,"h":8}}'.encode()) for n in (4, 44))

    assert difference(before, after) == [
        (" ", '  "a": 1,'),
        (" ", '  "b": 2,'),
        (" ", '  "c": 3,'),
        ("-", '  "d": 4,'),
        ("+", '  "d": 44,'),
        (" ", '  "e": 5,'),
        (" ", '  "f": 6,'),
        (" ", '  "g": 7,'),
    ]
    assert difference(before, before)[0][0] == " "
    assert all(sign == " " for sign, _ in difference(before, before))


def test_of_a_long_line_the_place_of_the_difference_is_shown() -> None:
    before, after = "x" * 900_000 + "1" + "y" * 500, "x" * 900_000 + "2" + "y" * 500
    (_, old), (_, new) = difference(before, after)

    assert ("1" in old, "2" in new) == (True, True)
    assert max(len(old), len(new)) <= LINE_MAX + 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["a"] * 60_000, ["b"] * 60_000),
        (["a", "b"] * 30_000, ["b", "a"] * 30_001),
        ([str(n) for n in range(COMPARED_LINES_MAX)], [str(n) for n in range(COMPARED_LINES_MAX, 0, -1)]),
        (["a"] * COMPARED_LINES_MAX, ["a", "b"] * (COMPARED_LINES_MAX // 2)),
    ],
)
def test_a_difference_is_bounded(before: list[str], after: list[str]) -> None:
    found = difference("\n".join(before), "\n".join(after))

    assert len(found) <= SHOWN_LINES_MAX + 1


def test_a_change_of_two_places_leaves_out_what_is_between() -> None:
    before = [str(n) for n in range(50)]
    after = ["first", *before[1:-1], "last"]
    signs = [sign for sign, _ in difference("\n".join(before), "\n".join(after))]

    assert "".join(signs) == "-+" + " " * editing.CONTEXT_LINES + "…" + " " * editing.CONTEXT_LINES + "-+"
