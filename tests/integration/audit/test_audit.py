"""Each kind of damage is done to a sound system; the audit finds and names it, and nothing else."""

from collections.abc import Iterator

import pytest

from dev.servers import Servers
from shared.audit.report import EXAMPLES
from tests.integration.audits import audit, now, open_transaction, ours, produce
from tests.integration.tallies import Tallies
from tests.integration.tally_topics import headers

KEYS = ("a", "d", "e", "k")
"""Two keys for each partition."""


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    """A service that has published twelve events in several claims, on two partitions, and rests."""
    with Tallies(servers, partitions=2) as made:
        for key in KEYS:
            made.request(1, 2, 3, key=key)
        made.work(rows=2)
        yield made


def place(tallies: Tallies, key: str, nth: int) -> tuple[str, str, int, int]:
    """Return the place of a key's n-th event, its id, its lane and its claim's position."""
    record = [r for r in tallies.read(tallies.told.topic) if r.key() == key.encode()][nth]
    event_id = dict(record.headers())["ce_id"].decode()
    (position,) = tallies.sql("SELECT position FROM exactly_once_claimed WHERE %s = ANY(event_ids)", event_id)
    return f"{record.topic()}[{record.partition()}]@{record.offset()}", event_id, record.partition(), position


def test_a_system_in_order(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    answer = audit(tallies, capsys)

    assert (answer.code, answer.counts, answer.facts["not_compared"]) == (0, {}, {})
    assert [answer.facts[name] for name in ("records_of_ours", "events_claimed", "unpublished", "lag")] == [
        12,
        12,
        0,
        0,
    ]
    assert answer.facts["claims"] == 6
    assert answer.facts["per_second"] > 0
    assert tallies.run("audit") == 0
    printed = capsys.readouterr()
    assert "Nothing is wrong." in printed.out
    assert "12 of 12 records are this service's, " in printed.out
    assert " records/s; 12 events in 6 claims since" in printed.out
    assert printed.err == ""  # no bar without a terminal


def test_a_service_that_consumes_what_it_publishes(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    """As its own deadlines: each topic is asked about once."""
    told = tallies.told

    @tallies.service.on(told)
    def hear(event: told) -> None:  # type: ignore[valid-type]
        """It is known."""

    assert audit(tallies, capsys).counts == {}


def test_it_changes_nothing(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tables = tuple(
        f"exactly_once_{name}" for name in ["lane", "outbox", "claimed", "position", "topic", "decision", "inbox"]
    )

    def everything() -> object:
        return [tallies.sql(f"SELECT {table}::text FROM {table} ORDER BY 1") for table in tables], tallies.committed()

    before = everything()
    assert audit(tallies, capsys).counts == {}
    assert everything() == before


def test_an_event_published_twice(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    first, event_id, lane, position = place(tallies, "d", 1)
    again = produce(tallies, ours(tallies, event_id), key="d", partition=lane)

    answer = audit(tallies, capsys)

    assert answer.findings == [("twice", f"{tallies.told.topic}[{lane}]@{again}", event_id, lane, position)]
    assert answer.details == [f"it is also at {first}"]
    assert tallies.run("audit") == 1
    printed = capsys.readouterr().out
    assert f"{event_id}  lane-{lane}  position {position}  it is also at {first}" in printed
    assert "1 of 7 rows are NOT ok." in printed


def test_an_event_published_twice_on_two_partitions(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    _, event_id, lane, _ = place(tallies, "d", 1)
    produce(tallies, ours(tallies, event_id), key="d", partition=1 - lane)

    assert audit(tallies, capsys).counts == {"twice": 1}


def test_an_event_that_nobody_knows(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    known = produce(tallies, ours(tallies, "never-decided"), key="a")
    nameless = produce(tallies, {"ce_source": tallies.name})
    elsewhere = produce(tallies, ours(tallies, "elsewhere"), topic=tallies.service.dead_letter_topic)

    answer = audit(tallies, capsys)

    assert answer.findings == [
        ("unknown", f"{tallies.service.dead_letter_topic}[0]@{elsewhere}", "elsewhere", None, None),
        ("unknown", f"{tallies.told.topic}[0]@{known}", "never-decided", None, None),
        ("unknown", f"{tallies.told.topic}[0]@{nameless}", None, None, None),
    ]


def test_an_event_on_the_wrong_topic_is_not_that_event(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    _, event_id, _, _ = place(tallies, "a", 0)
    produce(tallies, ours(tallies, event_id), topic=tallies.service.dead_letter_topic)

    assert audit(tallies, capsys).counts == {"unknown": 1}


def test_an_event_that_was_never_published(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    """It is as if Kafka had lost it with its marker."""
    tallies.sql(
        "UPDATE exactly_once_claimed SET event_ids = event_ids || ARRAY['lost'], events = events + 1 WHERE lane = 1 "
        "AND position = 2"
    )

    answer = audit(tallies, capsys)

    assert answer.findings == [("never", tallies.told.topic, "lost", 1, 2)]
    assert answer.details[0].startswith("claimed at 2")


def test_events_of_one_key_out_of_order(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    """In the database, the second was decided before the first."""
    _, first_id, lane, first_position = place(tallies, "k", 0)
    second, second_id, _, second_position = place(tallies, "k", 1)
    for old, new, position in ((first_id, second_id, first_position), (second_id, first_id, second_position)):
        tallies.sql(
            "UPDATE exactly_once_claimed SET event_ids = array_replace(event_ids, %s, %s || '!') WHERE lane = %s "
            "AND position = %s",
            *(old, new, lane, position),
        )
    tallies.sql(
        "UPDATE exactly_once_claimed "
        "SET event_ids = string_to_array(replace(array_to_string(event_ids, ','), '!', ''), ',')"
    )

    answer = audit(tallies, capsys)

    assert answer.findings == [("order", second, second_id, lane, first_position)]
    assert f"lane-{lane}, position {second_position}, that was decided later" in answer.details[0]


def test_the_next_offset_beyond_the_end_of_its_topic(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.sql("UPDATE exactly_once_position SET next_offset = 1000 WHERE partition = 0")

    answer = audit(tallies, capsys)

    assert answer.findings == [("positions", f"{tallies.asked.topic}[0]", None, None, None)]
    assert "positions rewind" in answer.details[0]


@pytest.mark.parametrize("by", [2, -2])
def test_a_published_position_that_is_not_of_the_claim(
    tallies: Tallies, capsys: pytest.CaptureFixture[str], by: int
) -> None:
    """The claim is not published; a wrong published position must not make its event seem lost."""
    tallies.request(4)
    tallies.work(die="unpublished")
    position, _, _ = tallies.lane(1)
    tallies.commit(tallies.service.lane_topic, 1, position + by, "00000000-0000-0000-0000-000000000000")

    answer = audit(tallies, capsys)

    assert answer.findings == [("positions", None, None, 1, position)]
    assert "positions adopt" in answer.details[0]


def test_a_transaction_that_does_not_end(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    """What is behind it cannot be consumed, so it is not missed; once aborted, its record counts for nothing."""
    tallies.sql(
        "UPDATE exactly_once_claimed SET event_ids = event_ids || ARRAY['lost'] WHERE lane = 0 AND position = 1"
    )
    with open_transaction(tallies, ours(tallies, "aborted"), since_seconds=3_600):
        answer = audit(tallies, capsys)

        assert answer.findings == [("open", f"{tallies.told.topic}[0]", None, None, None)]
        assert answer.details[0].startswith("open for 60 min")
        assert answer.facts["open_transactions_seconds"].keys() == {f"{tallies.told.topic}[0]"}
        assert answer.facts["not_compared"] == {"events claimed for a topic that an open transaction holds back": 1}

    assert audit(tallies, capsys).counts == {"never": 1}


def test_rows_that_stay_unpublished(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    tallies.request(4, 5, key="k")

    fresh = audit(tallies, capsys)
    tallies.sql("UPDATE exactly_once_outbox SET decided_at = decided_at - interval '2 hours'")
    stale = audit(tallies, capsys)

    assert (fresh.counts, fresh.facts["unpublished"]) == ({}, 2)
    ((kind, _, _, lane, _),) = stale.findings
    assert (kind, [lane], stale.facts["unpublished"]) == (
        "unpublished",
        tallies.sql("SELECT DISTINCT lane FROM exactly_once_outbox"),
        2,
    )
    assert stale.details == ["2 wait, the oldest for 2 h"]


def test_a_topic_that_was_created_again(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    """Its records went with it and are not missed."""
    tallies.recreate(tallies.told.topic)

    answer = audit(tallies, capsys)

    assert answer.findings == [("positions", tallies.told.topic, None, None, None)]
    assert answer.facts["not_compared"] == {"events claimed before their topic was created again": 12}
    assert tallies.run(f"positions adopt --target {tallies.told.topic} --yes") == 0
    tallies.request(4)
    tallies.work()
    answer = audit(tallies, capsys)
    assert (answer.counts, answer.facts["records_of_ours"]) == ({}, 1)
    tallies.sql(
        "UPDATE exactly_once_claimed SET event_ids = event_ids || ARRAY['lost'] WHERE id = (SELECT max(id) "
        "FROM exactly_once_claimed)"
    )
    assert audit(tallies, capsys).counts == {"never": 1}


def test_what_others_publish_is_their_affair(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    """The topic has records of another service and of none, with our ids, twice."""
    _, event_id, _, _ = place(tallies, "a", 0)
    for _ in range(2):
        produce(tallies, {**ours(tallies, event_id), "ce_source": "another"})
        produce(tallies, {})
        produce(tallies, {name: str(fact) for name, fact in headers("foreign")})

    answer = audit(tallies, capsys)

    assert answer.counts == {}
    assert [answer.facts[name] for name in ("records", "records_of_ours")] == [18, 12]


def test_many_findings_are_counted_and_the_first_are_named(
    tallies: Tallies, capsys: pytest.CaptureFixture[str]
) -> None:
    tallies.sql(
        "UPDATE exactly_once_claimed SET event_ids = event_ids || ARRAY(SELECT 'lost-' || n "
        "FROM generate_series(1, 500) AS n), "
        "events = events + 500 WHERE lane = 0 AND position = 1"
    )

    answer = audit(tallies, capsys)

    assert answer.counts == {"never": 500}
    assert [finding[2] for finding in answer.findings] == [f"lost-{n}" for n in range(1, EXAMPLES + 1)]
    assert tallies.run("audit") == 1
    assert f"({EXAMPLES} of 500; --all names all)" in capsys.readouterr().out


def test_all_at_once(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    _, event_id, _, _ = place(tallies, "a", 0)
    produce(tallies, ours(tallies, event_id))
    produce(tallies, ours(tallies, "unknown", now()))
    tallies.sql(
        "UPDATE exactly_once_claimed SET event_ids = event_ids || ARRAY['lost'] WHERE lane = 0 AND position = 1"
    )
    tallies.sql("UPDATE exactly_once_position SET next_offset = 1000 WHERE partition = 1")

    assert audit(tallies, capsys).counts == {"twice": 1, "unknown": 1, "never": 1, "positions": 1}
