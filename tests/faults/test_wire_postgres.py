"""A COMMIT never arrives, its answer never comes, or a session is half-open."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from dev.servers import Servers
from shared.command import EXIT_AGAIN
from tests.faults.cells import FEEDS, Source
from tests.faults.chosen import chosen
from tests.faults.stage import Stage
from tests.faults.wire import Deed, Wire, commit_of

CLAIMS = "UPDATE exactly_once_lane AS lane SET position"
"""A statement of every cycle's transaction."""
CUTS = (Deed.CUT_BEFORE, Deed.CUT_AFTER)
HALF_OPEN = (Deed.BLACKHOLE, Deed.BLACKHOLE_AFTER)
ATTEMPTS_MAX = 5


@dataclass(frozen=True)
class Doubt:
    """A COMMIT in doubt."""

    source: Source
    deed: Deed

    def __str__(self) -> str:
        return f"{self.source.value}-{self.deed.name.lower()}"


def doubts() -> Iterable[Doubt]:
    """Return all doubts."""
    yield from (Doubt(source, deed) for deed in (*HALF_OPEN, *CUTS) for source in Source)


def play(doubt: Doubt, servers: Servers, logs: Path) -> list[str]:
    """Put the COMMIT of a cycle in doubt."""
    feed = FEEDS[doubt.source]
    with Wire.before(servers) as wire, Stage(servers, logs) as stage:
        worker = stage.worker(None, **wire.settings(stage.dsn))
        stage.ask()
        stage.request()
        stage.until_drained()
        pid = worker.pid
        rule = wire.on(commit_of(CLAIMS), doubt.deed)
        feed(stage)
        rule.wait()
        stage.ask()
        stage.request()
        stage.until_drained()
        if doubt.deed in CUTS:
            assert (worker.pid, worker.restarts) == (pid, 0), "it recovers in the same process"
        else:
            # Nothing tells a client that an answer will not come: the watchdog ends the process.
            assert worker.restarts > 0, f"it goes on without an answer, or did not end with {EXIT_AGAIN}"
        stage.stop()
        stage.show()
        return [*stage.problems(), *wire.refused]


@pytest.mark.parametrize("cell", chosen(doubts(), "events-cut_after", "requests-blackhole_after"), ids=str)
def test_a_worker_whose_commit_is_in_doubt(cell: Doubt, problems: list[str]) -> None:
    assert problems == []


def until_it_works(work: Callable[[], None]) -> None:
    """Do as most code does: on a connection error, try again."""
    for _ in range(ATTEMPTS_MAX):
        try:
            work()
        except psycopg.OperationalError:
            continue
        return
    raise AssertionError("it never worked")


@pytest.mark.parametrize(("deed", "effects"), [(Deed.CUT_BEFORE, 1), (Deed.CUT_AFTER, 2)])
def test_commit_then_send_and_on_an_error_again_has_its_effect_twice(
    servers: Servers, tmp_path: Path, deed: Deed, effects: int
) -> None:
    """The same loss harms code that takes a lost answer for a failed COMMIT."""
    sent: list[str] = []
    with Wire.before(servers) as wire, Stage(servers, tmp_path) as stage:
        url = wire.dsn(stage.dsn)

        def work() -> None:
            with psycopg.connect(url) as connection:
                connection.execute("INSERT INTO effect (key, number) VALUES ('key', 1)")
            sent.append("event")

        rule = wire.on(commit_of("INSERT INTO effect"), deed)
        until_it_works(work)
        assert rule.happened.is_set()
        assert sent == ["event"]
        assert stage.one("SELECT count(*) FROM effect") == effects
