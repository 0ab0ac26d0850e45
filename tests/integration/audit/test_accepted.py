"""After a backup is restored by the runbook, the audit finds all that the lost database had published, with its keys.
Once the lanes are decided, it still finds it, under the decision's number.
"""

from collections.abc import Iterator

import pytest
from sqlalchemy import NullPool, create_engine

from dev.servers import Servers
from shared.postgres import claim_log
from tests.integration.audits import Answer, audit, ours, produce
from tests.integration.tallies import Tallies

OLD, LOST = ("a", "d"), ("a", "d", "e", "k", "b", "c")
"""The keys before the backup, all in one lane, and those after it, in all lanes."""


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    """Four lanes; most have never claimed anything when the backup is made."""
    with Tallies(servers, partitions=4) as made:
        for number, key in enumerate(OLD):
            made.request(number, key=key)
        made.work()
        restore = made.copy()
        for number, key in enumerate(LOST * 2):
            made.request(100 + number, key=key)
        made.work(rows=1)
        restore()
        yield made


def lost(answer: Answer) -> list[tuple[str, str]]:
    """Return key and type of each unknown event."""
    return sorted((f["key"], f["event_type"]) for f in answer.facts["findings"] if f["kind"] == "unknown")


def test_it_stays_found_with_its_keys(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    expected = sorted((key, "Told.v1") for key in LOST * 2)

    before = audit(tallies, capsys)

    assert (before.counts["unknown"], lost(before), before.accepted) == (12, expected, {})
    assert tallies.run("positions adopt --target lanes --yes") == 0
    decided = audit(tallies, capsys)
    assert (decided.code, decided.counts, decided.accepted) == (0, {}, {"unknown": 12})
    assert lost(decided) == expected
    numbers = {decision["source"]: decision["id"] for decision in tallies.decisions()}
    assert {f["accepted_by"] for f in decided.facts["findings"]} == set(numbers.values())
    capsys.readouterr()
    assert tallies.run("audit") == 0
    printed = capsys.readouterr().out
    assert "Nothing is wrong" not in printed
    assert "12 findings stay, accepted by decision 1" in printed
    assert "key k  Told.v1" in printed

    # Work goes on; what is lost stays so, and what is new is not taken for it.
    for number, key in enumerate(LOST):
        tallies.request(200 + number, key=key)
    tallies.work()
    assert audit(tallies, capsys).accepted == {"unknown": 12}
    produce(tallies, ours(tallies, "stranger"), key="k")
    later = audit(tallies, capsys)
    assert (later.code, later.counts, later.accepted) == (1, {"unknown": 1}, {"unknown": 12})


def test_also_on_a_lane_whose_claims_were_pruned(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    engine = create_engine(tallies.settings.migration_dsn(tallies.name), poolclass=NullPool)
    with engine.begin() as connection:
        claim_log.prune(connection, 0, 1_000)

    assert audit(tallies, capsys).counts["unknown"] == 12


def test_all_of_them_are_named_when_asked_for(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(15):
        produce(tallies, ours(tallies, f"stranger-{number}"), key="k")

    assert len(lost(audit(tallies, capsys))) == 20
    assert len(lost(audit(tallies, capsys, "audit --json --all"))) == 27


def test_what_a_rewind_explains_is_published_again(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    """A rewind explains one duplicate of each record; others that a producer publishes are found as ever."""
    with Tallies(servers) as tallies:
        tallies.lose_two()
        assert tallies.run("positions rewind --target inputs --yes") == 0
        assert tallies.run("positions adopt --target lanes --yes") == 0
        tallies.work()
        number = next(made["id"] for made in tallies.decisions() if made["command"] == "positions rewind")
        ids = dict(tallies.consumed())

        decided = audit(tallies, capsys)

        assert (decided.code, decided.counts, decided.accepted) == (0, {}, {"twice": 2})
        assert {(f["event_id"], f["accepted_by"]) for f in decided.facts["findings"]} == {
            (ids[4], number),
            (ids[5], number),
        }
        assert tallies.run("audit") == 0
        assert f"accepted by decision {number}" in capsys.readouterr().out
        # Also when their claims are forgotten: the records tell when they were decided.
        tallies.sql("UPDATE exactly_once_claimed SET event_ids = '{}', events = 0 WHERE %s = ANY(event_ids)", ids[4])
        assert audit(tallies, capsys).accepted["twice"] == 2

        produce(tallies, ours(tallies, ids[4]), key="k")  # a third time
        produce(tallies, ours(tallies, ids[1]), key="k")  # handled before what was rewound
        later = audit(tallies, capsys)
        assert (later.code, later.counts["twice"], later.accepted["twice"]) == (1, 2, 2)


@pytest.mark.parametrize("choice", ["rewind", "skip"])
def test_what_waited_in_a_lane_that_was_rewound_is_published_again(
    servers: Servers, capsys: pytest.CaptureFixture[str], choice: str
) -> None:
    """`skip` counts only claimed rows as published, so it publishes again what waits behind them."""
    with Tallies(servers) as tallies:
        tallies.request(1)
        tallies.work()
        tallies.request(2, 3, key="x")
        restore = tallies.copy()
        tallies.work()
        restore()
        assert tallies.run(f"positions {choice} --target lanes --yes") == 0
        tallies.request(4)
        tallies.work()
        (number,) = [made["id"] for made in tallies.decisions()]
        ids = dict(tallies.consumed())

        decided = audit(tallies, capsys)

        assert (decided.code, decided.counts, decided.accepted) == (0, {}, {"twice": 2})
        assert [(f["event_id"], f["key"], f["accepted_by"]) for f in decided.facts["findings"]] == [
            (ids[2], "x", number),
            (ids[3], "x", number),
        ]
        assert tallies.run("positions show") == 0
        # Also when their claims are forgotten; but no third time, and none of what was decided later.
        tallies.sql("UPDATE exactly_once_claimed SET event_ids = '{}', events = 0 WHERE %s = ANY(event_ids)", ids[2])
        assert audit(tallies, capsys).accepted["twice"] == 2
        produce(tallies, ours(tallies, ids[2]), key="x")
        produce(tallies, ours(tallies, ids[4]), key="k")
        later = audit(tallies, capsys)
        assert (later.code, later.counts["twice"], later.accepted["twice"]) == (1, 2, 2)
