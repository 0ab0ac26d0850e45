"""What requests and records say of their trace is carried within W3C's limits; what else is there is left out."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shared.trace_context import (
    BAGGAGE_BYTES_MAX,
    BAGGAGE_MEMBERS_MAX,
    STATE_CHARACTERS_MAX,
    STATE_MEMBERS_MAX,
    TEXT_MAX,
    TraceContext,
    headers_within,
    keys,
    named,
    of_headers,
    of_text,
)

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STATE = "rojo=00f067aa0ba902b7,fw529a3039@dt=FfAz Z;x,ot=th:c"
BAGGAGE = "tenant=eu-7,experiment=b;note;at=9,empty=,name=Am%C3%A9lie"
ALL = TraceContext(PARENT, STATE, BAGGAGE)
TEXT = f"{PARENT}\ntracestate: {STATE}\nbaggage: {BAGGAGE}"

Headers = list[tuple[str, bytes | None]]


def encoded(context: TraceContext) -> Headers:
    return [(name, held.encode()) for name, held in context.headers()]


def tracestate(*given: bytes | None, parent: str = PARENT) -> str:
    return of_headers([("traceparent", parent.encode()), *(("tracestate", one) for one in given)]).tracestate


def baggage(*given: bytes | None) -> str:
    return of_headers([("baggage", one) for one in given]).baggage


def test_the_three_headers_wait_as_one_text() -> None:
    assert of_headers(encoded(ALL)) == ALL
    assert ALL.text == TEXT
    assert of_text(TEXT) == ALL
    assert ALL.without_baggage().headers() == [("traceparent", PARENT), ("tracestate", STATE)]


@pytest.mark.parametrize(
    ("context", "text"),
    [
        (TraceContext(), None),
        (TraceContext(PARENT), PARENT),
        (TraceContext(PARENT, STATE), f"{PARENT}\ntracestate: {STATE}"),
        (TraceContext(PARENT, "", "a=b"), f"{PARENT}\nbaggage: a=b"),
        (TraceContext("", "", "a=b"), "\nbaggage: a=b"),
    ],
)
def test_what_is_not_there_takes_no_line(context: TraceContext, text: str | None) -> None:
    assert context.text == text
    assert of_text(text) == context
    assert of_headers(encoded(context)).text == text


same_each_time = settings(derandomize=True, max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))

header_names = st.sampled_from([*TraceContext._fields, "Baggage", ""])
pieces = st.sampled_from(
    [b"a=b", b"a=b;c", b"x@y=1", PARENT.encode(), TEXT.encode(), b",", b";", b"=", b"\n", b"\r\n", b"\0", b"\t", b" "]
)
contents = st.lists(pieces | st.binary(max_size=5), max_size=8).map(b"".join)


@same_each_time
@given(st.lists(st.tuples(header_names, st.none() | contents), max_size=6))
@example([("traceparent", TEXT.encode() + b"\nbaggage: c=d")])
@example([("traceparent", PARENT.encode() + b"\ntracestate: a=b\ntraceparent: " + PARENT.encode())])
@example([("baggage", b"a=b\nbaggage: c=d")])
@example([("baggage", b"a=b,\xff=c,\0=d,e=f\x0b")])
@example([("traceparent", PARENT.encode()), ("tracestate", b"a=\nb")])
def test_of_any_headers_only_what_can_be_sent_on_is_kept(headers: Headers) -> None:
    found = of_headers(headers)

    assert all(held.isascii() and (held.isprintable() or "\t" in held) for _, held in found.headers())
    assert not any(character in held for _, held in found.headers() for character in "\n\r\0")
    assert len(found.text or "") <= TEXT_MAX
    assert of_text(found.text) == found
    assert of_headers(encoded(found)) == found, "the next service keeps what this one kept"


names = st.text(st.sampled_from("abcXYZ019-_.%!'|~"), min_size=1, max_size=9)
members = st.dictionaries(names, st.text(st.sampled_from("abcXYZ019-_.:/%=!()"), max_size=9), max_size=9)


@same_each_time
@given(members)
def test_all_that_is_well_formed_is_kept_in_its_order(given: dict[str, str]) -> None:
    line = ",".join(f"{name}={value}" for name, value in given.items())
    assert baggage(line.encode()) == line
    assert baggage(*(f" {name}={value}\t".encode() for name, value in given.items())) == line


def test_headers_of_one_name_are_one_list() -> None:
    assert tracestate(b"a=1, ,b=2", b"c=3") == "a=1,b=2,c=3"
    assert baggage(b"a=1 , b = 2", b"", b"c=3") == "a=1,b = 2,c=3"


@pytest.mark.parametrize(
    "given",
    [
        [None],
        [b""],
        [b"A=1"],
        [b"a=1,b"],
        [b"a=1", b"a=2"],
        [b"a=b=c"],
        [b"a=\xc3\xa9"],
        [b"a=1\n"],
        [b"a=" + b"x" * 257],
        [b"x=" + b"x" * 250, b"y=" + b"y" * 250, b"z=12345"],
        [b",".join(b"k%d=1" % n for n in range(STATE_MEMBERS_MAX + 1))],
    ],
)
def test_a_tracestate_that_is_malformed_or_too_large_is_left_out_whole(given: list[bytes | None]) -> None:
    assert tracestate(*given) == ""


def test_a_tracestate_up_to_the_limits_is_carried() -> None:
    longest = b"x=" + b"x" * 250 + b",y=" + b"y" * 250 + b",z=1234"
    assert len(longest) == STATE_CHARACTERS_MAX
    assert tracestate(longest).encode() == longest
    most = b",".join(b"k%d=1" % n for n in range(STATE_MEMBERS_MAX))
    assert tracestate(most).encode() == most


def test_a_tracestate_belongs_to_its_traceparent() -> None:
    assert tracestate(b"a=1", parent="nonsense") == ""
    assert of_headers([("tracestate", b"a=1"), ("baggage", b"a=1")]) == TraceContext("", "", "a=1")


@pytest.mark.parametrize("wrong", [b"b", b"b c=1", b"b=a b", b'b="1"', b"b=\\", b"b=\xff", b"=1", b"b=1;;", b"b=1\0"])
def test_of_baggage_what_is_malformed_is_left_out(wrong: bytes) -> None:
    assert baggage(b"a=1," + wrong + b",c=3") == "a=1,c=3"


def test_baggage_up_to_the_limits_is_carried() -> None:
    longest = b"a=" + b"x" * (BAGGAGE_BYTES_MAX - 2)
    assert baggage(longest).encode() == longest
    assert baggage(longest + b"x") == ""
    assert baggage(longest, b"b=1") == ""
    many = [f"k{n}=1" for n in range(BAGGAGE_MEMBERS_MAX + 1)]
    assert baggage(",".join(many).encode()).split(",") == many[:-1]


def test_of_a_request_only_chosen_members_are_taken() -> None:
    given: Headers = [("baggage", b"tenant=7;note,secret=x,Tenant=8"), ("baggage", b"experiment=b")]
    assert of_headers(given, keys("tenant, experiment")).baggage == "tenant=7;note,experiment=b"
    assert of_headers(given, keys("")).baggage == ""
    assert of_headers(given, keys(" * ")).baggage == "tenant=7;note,secret=x,Tenant=8,experiment=b"


@pytest.mark.parametrize("wrong", ["tenant,*", "a b", "a;b", "a=b", "é", "x" * 1_000 + "@"])
def test_a_name_that_no_member_can_have_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a member of baggage; write names") as refused:
        keys(wrong)
    assert len(str(refused.value)) < 300


def test_what_an_earlier_version_copies_into_one_header_is_read_as_what_it_is() -> None:
    assert of_headers([("traceparent", TEXT.encode())]) == ALL
    for wrong in (f"{TEXT}\n", f"{TEXT}\nbaggage: c=d", f"{PARENT}\n", f"nonsense\n{TEXT}", f"{TEXT}\nother: 1"):
        assert of_headers([("traceparent", wrong.encode())]) == TraceContext(), wrong


def test_a_record_without_room_for_all_has_the_traceparent_alone() -> None:
    assert headers_within(TEXT, len(TEXT)) == ALL.headers()
    assert headers_within(TEXT, len(TEXT) - 1) == headers_within(TEXT, -5) == [("traceparent", PARENT)]
    assert headers_within(PARENT, -5) == [("traceparent", PARENT)]
    assert headers_within("\nbaggage: a=b", 3) == []


def test_for_people_each_part_has_its_name() -> None:
    assert named(TEXT) == {"traceparent": PARENT, "tracestate": STATE, "baggage": BAGGAGE}
    assert named(PARENT) == {"traceparent": PARENT}
    assert named(None) == {"traceparent": None}
