"""How a value is shown, and how two differ: nothing that somebody did not touch may change."""

import json

import pytest

from shared.operations import dead_letters, editing
from shared.operations.editing import (
    COMPARED_LINES_MAX,
    LINE_MAX,
    SHOWN_LINES_MAX,
    difference,
    faithful,
    minified,
    pretty,
    shown,
)


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


@pytest.mark.parametrize("value", [b"", b"{", b"\xff", b'"\xff"', b"NaN", b"[" * 100_000 + b"]" * 100_000, b"{} {}"])
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


def test_changes_of_two_long_lines_side_by_side_are_both_shown() -> None:
    before, after = (shown(json.dumps({"note": "x" * 300 + n, "memo": "y" * 300 + n}).encode()) for n in ("old", "new"))
    found = difference(before, after)

    assert ["old" in line for sign, line in found if sign == "-"] == [True, True]
    assert ["new" in line for sign, line in found if sign == "+"] == [True, True]


def test_two_changes_far_apart_in_one_line_are_both_shown() -> None:
    before, after = (f"{n}1" + "x" * 1_000 + f"{n}2" for n in ("old", "new"))
    found = difference(before, after)

    for sign, word in (("-", "old"), ("+", "new")):
        told = "".join(line for mark, line in found if mark == sign)
        assert (f"{word}1" in told, f"{word}2" in told) == (True, True)
    assert max(len(line) for _, line in found) <= LINE_MAX + 2


def test_no_two_long_lines_look_the_same() -> None:
    before, after = ["x" * 50_000 + "old", "y" * 50_000 + "old"], ["x" * 50_000 + "new", "more", "y" * 50_000 + "new"]
    found = difference("\n".join(before), "\n".join(after))
    gone = [line for sign, line in found if sign == "-"]
    come = [line for sign, line in found if sign == "+"]

    assert [line for line in gone if "SHA-256" in line]
    assert not {line for line in gone if "SHA-256" in line} & set(come)


SPRAWLING = b"[" * 900 + b"1," * 49_000 + b"1" + b"]" * 900


def test_levels_without_end_are_not_indented_and_stay_as_they_are() -> None:
    lines = pretty(SPRAWLING)

    assert lines is not None
    assert len(lines) < 2 * len(SPRAWLING)
    assert minified(lines.encode()) == SPRAWLING
    assert faithful(SPRAWLING) == shown(SPRAWLING) == lines
    changed = SPRAWLING.replace(b"1,1]", b"1,2]")
    assert [one for one in difference(lines, shown(changed)) if one[0] != " "] == [("-", "1"), ("+", "2")]
    assert shown(b" \n" * 9_000 + SPRAWLING) == lines, "white space changes nothing"
    assert dead_letters.readable(SPRAWLING) == SPRAWLING.decode()


def test_of_levels_that_are_not_indented_the_strings_stay_whole() -> None:
    value = SPRAWLING.replace(b"1,1]", rb'{"a,[":"\"],","\\\\":"{"}]')
    lines = pretty(value)

    assert lines is not None
    assert '"a,[":"\\"],",\n"\\\\\\\\":"{"\n}' in lines
    assert minified(lines.encode()) == value


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
