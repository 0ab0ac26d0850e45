"""The proxy's readers of Kafka's and PostgreSQL's framing take data in any pieces, and any garbage."""

import struct

import pytest

from tests.faults.wire.kafka import KafkaTalk, read_request, spelled, topic_of
from tests.faults.wire.parting import Garbage, Passage
from tests.faults.wire.postgres import PostgresRequest, PostgresTalk


def string(text: str | None) -> bytes:
    """Return a string as Kafka's older versions write it."""
    return struct.pack(">h", -1) if text is None else struct.pack(">h", len(text)) + text.encode()


def frame(key: int, version: int, body: bytes = b"", *, correlation: int = 7, header: bytes = b"") -> bytes:
    """Return a request of client `app`; `header` is what a flexible version adds."""
    inside = struct.pack(">hhi", key, version, correlation) + string("app") + header + body
    return struct.pack(">i", len(inside)) + inside


COMPACT_ID = bytes([4]) + b"t-1"
ONE_TAG = bytes([1, 5, 2]) + b"ab"
PRODUCER = struct.pack(">qh", 4_000, 3)

FRAMES = {
    "Produce with a transaction": (frame(0, 7, string("t-1")), "Produce", "t-1"),
    "Produce without one": (frame(0, 3, string(None)), "Produce", None),
    "Produce, too old to name one": (frame(0, 2, b"\0\1"), "Produce", None),
    "Produce, compact": (frame(0, 9, COMPACT_ID, header=b"\0"), "Produce", "t-1"),
    "Produce, compact, without one": (frame(0, 9, b"\0", header=b"\0"), "Produce", None),
    "InitProducerId": (frame(22, 1, string("t-1")), "InitProducerId", "t-1"),
    "InitProducerId, compact": (frame(22, 4, COMPACT_ID, header=ONE_TAG), "InitProducerId", "t-1"),
    "AddPartitionsToTxn": (frame(24, 0, string("t-1")), "AddPartitionsToTxn", "t-1"),
    "AddPartitionsToTxn of a broker": (frame(24, 4, b"\2\4abc"), "AddPartitionsToTxn", None),
    "AddOffsetsToTxn": (frame(25, 0, string("t-1")), "AddOffsetsToTxn", "t-1"),
    "TxnOffsetCommit": (frame(28, 3, COMPACT_ID, header=b"\0"), "TxnOffsetCommit", "t-1"),
    "EndTxn that commits": (frame(26, 1, string("t-1") + PRODUCER + b"\1"), "EndTxn(commit)", "t-1"),
    "EndTxn that aborts": (frame(26, 3, COMPACT_ID + PRODUCER + b"\0", header=b"\0"), "EndTxn(abort)", "t-1"),
    "Fetch": (frame(1, 16), "Fetch", None),
    "what we have no name for": (frame(999, 0), "api 999", None),
}


@pytest.mark.parametrize("made", FRAMES.values(), ids=FRAMES)
def test_a_request_of_kafka(made: tuple[bytes, str, str | None]) -> None:
    data, name, transactional_id = made
    request = read_request(data)
    assert (request.name, request.transactional_id, request.client_id) == (name, transactional_id, "app")
    assert request.correlation == 7


BEHIND = struct.pack(">hi", -1, 30_000)
"""Acks and a timeout."""


@pytest.mark.parametrize(
    "made",
    [
        frame(0, 7, string("t-1") + BEHIND + struct.pack(">i", 1) + string("events")),
        frame(0, 10, COMPACT_ID + BEHIND + b"\2\7events", header=ONE_TAG),
    ],
    ids=["plain", "compact"],
)
def test_the_topic_of_a_produce(made: bytes) -> None:
    at, topic = topic_of(read_request(made))
    assert topic == b"events" == made[at : at + 6]


def test_a_produce_that_names_no_topic() -> None:
    with pytest.raises(Garbage, match="no names"):
        topic_of(read_request(frame(0, 13, COMPACT_ID + BEHIND, header=ONE_TAG)))


def test_requests_of_kafka_in_any_pieces() -> None:
    data = b"".join(data for data, _, _ in FRAMES.values())
    names = [name for _, name, _ in FRAMES.values()]
    for cut in range(len(data) + 1):
        talk = KafkaTalk({})
        found = [*talk.requests(data[:cut]), *talk.requests(data[cut:])]
        assert [request.name for request in found] == names
        assert b"".join(request.data for request in found) == data
    talk = KafkaTalk({})
    assert [r.name for byte in data for r in talk.requests(bytes([byte]))] == names


@pytest.mark.parametrize(
    "data",
    [
        *(b"GET / HTTP/1.1\r\n", struct.pack(">i", -1), struct.pack(">i", 7), struct.pack(">i", 2**31 - 1)),
        *(struct.pack(">i", 0), frame(26, 1, string("t-1"))),
        *(frame(0, 7, struct.pack(">h", 500)), frame(0, 7, struct.pack(">h", -2))),
        *(frame(0, 9, b"\xff" * 9, header=b"\0"), frame(22, 4, b"", header=b"\xff" * 5)),
    ],
)
def test_what_is_no_request_of_kafka(data: bytes) -> None:
    with pytest.raises(Garbage, match="bytes"):
        list(KafkaTalk({}).requests(data))


def test_a_garbled_client_id_is_read_nevertheless() -> None:
    inside = struct.pack(">hhi", 1, 4, 7) + struct.pack(">h", 2) + b"\xff\xfe"
    (request,) = KafkaTalk({}).requests(struct.pack(">i", len(inside)) + inside)
    assert request.client_id == "\N{REPLACEMENT CHARACTER}" * 2


def reply(correlation: int, body: bytes) -> bytes:
    """Return a reply to a request."""
    return struct.pack(">ii", 4 + len(body), correlation) + body


def test_replies_of_kafka_find_their_requests_in_any_order_and_any_pieces() -> None:
    data = reply(2, b"second") + reply(1, b"first")
    for cut in range(len(data) + 1):
        talk = KafkaTalk({})
        sent = [Passage(read_request(frame(12, 0, correlation=n))) for n in (1, 2)]
        for passage in sent:
            talk.sent(passage)
        found = [*talk.replies(data[:cut]), *talk.replies(data[cut:])]
        assert found == [(reply(2, b"second"), sent[1], True), (reply(1, b"first"), sent[0], True)]


def test_a_reply_of_kafka_that_nobody_asked_for() -> None:
    with pytest.raises(Garbage, match="request 3, which nobody sent"):
        list(KafkaTalk({}).replies(reply(3, b"")))


@pytest.mark.parametrize(("key", "replaced"), [(3, True), (10, True), (60, True), (1, False)])
def test_only_replies_that_tell_addresses_get_the_proxys(key: int, *, replaced: bool) -> None:
    there, here = spelled("127.0.0.1", 9092), spelled("127.0.0.1", 40_001)
    talk = KafkaTalk({there: here})
    talk.sent(Passage(read_request(frame(key, 0))))
    ((data, _, _),) = talk.replies(reply(7, b"\x0a" + there + b"rack" + there))
    expected = here if replaced else there
    assert data == reply(7, b"\x0a" + expected + b"rack" + expected)


def message(kind: str, *texts: str, rest: bytes = b"") -> bytes:
    """Return a PostgreSQL message of strings."""
    body = b"".join(text.encode() + b"\0" for text in texts) + rest
    return kind.encode() + struct.pack(">i", 4 + len(body)) + body


def startup(code: int = 3 << 16) -> bytes:
    """Return a client's first message."""
    return struct.pack(">ii", 8, code)


SYNC = message("S")
BIND_END = bytes(6)
CONVERSATION = [
    (startup(), "startup", ()),
    (message("p", "SCRAM-SHA-256"), "p", ()),
    (message("Q", "BEGIN"), "BEGIN", ()),
    # A statement that is not prepared, with parameters.
    (
        message("P", "", "INSERT  INTO\n effect", rest=b"\0\0")
        + message("B", "", "", rest=BIND_END)
        + message("D", rest=b"The published position\0")
        + message("E", "", rest=bytes(4))
        + SYNC,
        "INSERT INTO effect",
        (),
    ),
    # psycopg prepares after the fifth time, and then only binds.
    (message("P", "_pg3_0", "SELECT 1", rest=b"\0\0") + SYNC, "PS", ("INSERT INTO effect",)),
    (
        message("B", "", "_pg3_0", rest=BIND_END) + message("E", "", rest=bytes(4)) + SYNC,
        "SELECT 1",
        ("INSERT INTO effect",),
    ),
    # A pipeline: three statements and one answer.
    (
        message("B", "", "_pg3_0", rest=BIND_END)
        + message("E", "", rest=bytes(4))
        + message("P", "", "DELETE FROM exactly_once_outbox", rest=b"\0\0")
        + message("B", "", "", rest=BIND_END)
        + message("E", "", rest=bytes(4))
        + SYNC,
        "SELECT 1; DELETE FROM exactly_once_outbox",
        ("INSERT INTO effect", "SELECT 1"),
    ),
    (
        message("Q", "COMMIT"),
        "COMMIT",
        ("INSERT INTO effect", "SELECT 1", "SELECT 1", "DELETE FROM exactly_once_outbox"),
    ),
    (message("Q", "SELECT 2"), "SELECT 2", ()),
    (
        message("B", "", "never seen", rest=BIND_END) + message("E", "", rest=bytes(4)) + SYNC,
        "prepared never seen",
        ("SELECT 2",),
    ),
    (message("X"), "X", ("SELECT 2", "prepared never seen")),
]


def told(requests: list[PostgresRequest]) -> list[tuple[bytes, str, tuple[str, ...]]]:
    """Return what was read of each request."""
    return [(request.data, request.name, request.before) for request in requests]


def test_requests_of_postgres_in_any_pieces() -> None:
    data = b"".join(data for data, _, _ in CONVERSATION)
    for cut in range(len(data) + 1):
        talk = PostgresTalk()
        assert told([*talk.requests(data[:cut]), *talk.requests(data[cut:])]) == CONVERSATION
    talk = PostgresTalk()
    assert told([r for byte in data for r in talk.requests(bytes([byte]))]) == CONVERSATION


def test_a_cancel_takes_the_place_of_a_startup() -> None:
    (request,) = PostgresTalk().requests(startup(80877102))
    assert request.name == "cancel"


@pytest.mark.parametrize(
    "data",
    [
        *(b"GET / HTTP/1.1\r\n", startup(80877103), startup(2 << 16), struct.pack(">i", 4)),
        *(startup() + b"Q" + struct.pack(">i", 3), startup() + b"Q" + struct.pack(">i", 2**31 - 1)),
        *(startup() + b"Q" + struct.pack(">i", -5), struct.pack(">i", 3)),
    ],
)
def test_what_is_no_request_of_postgres(data: bytes) -> None:
    with pytest.raises(Garbage, match="message"):
        list(PostgresTalk().requests(data))


def test_answers_of_postgres_end_with_ready_for_query_in_any_pieces() -> None:
    notice, tag = message("N", "notice"), message("C", "COMMIT")
    ready = message("Z", rest=b"I")
    data = message("R", rest=bytes(4)) + ready + notice + tag + ready + notice
    for cut in range(len(data) + 1):
        talk = PostgresTalk()
        first, second = [Passage(request) for request in talk.requests(startup() + message("Q", "COMMIT"))]
        talk.sent(first)
        found = list(talk.replies(data[:cut]))
        talk.sent(second)
        found += talk.replies(data[cut:])
        asked = [passage and passage.request.name for _, passage, _ in found]
        assert b"".join(part for part, _, _ in found) == data
        if cut <= len(message("R", rest=bytes(4)) + ready):
            assert asked == ["startup", "startup", "COMMIT", "COMMIT", "COMMIT", None]
            assert [whole for _, _, whole in found] == [False, True, False, False, True, False]


def test_a_password_and_an_end_expect_no_answer() -> None:
    talk = PostgresTalk()
    for request in talk.requests(startup() + message("p", "SCRAM") + message("Q", "COMMIT") + message("X")):
        talk.sent(Passage(request))
    ready = message("Z", rest=b"I")
    asked = [passage and passage.request.name for _, passage, _ in talk.replies(ready * 3)]
    assert asked == ["startup", "COMMIT", None]


def test_requests_are_told_apart_by_themselves_alone() -> None:
    """Two equal requests stay two."""
    one, other = read_request(frame(12, 0)), read_request(frame(12, 0))
    assert one != other
    assert len({one, other}) == 2
