"""A server is killed while a worker is between any two of its calls; the server comes back, and the worker goes on.

Many workers, each of its own service, stand still at one call each. So one kill meets all calls at once, and what a
worker was about to send reaches a server that has just replayed its log.
"""

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from dev.servers import Servers
from shared.testing.crashing_worker import Deed, Plan
from tests.faults.cells import FEEDS, PUBLISHING, Source
from tests.faults.stage import Stage, Worker

CALLS = {
    Source.EVENTS: (
        *("kafka.poll", "database.begin", "transaction.handle", "transaction.claim", "transaction.commit"),
        *PUBLISHING,
    ),
    Source.REQUESTS: ("transaction.claim", "transaction.commit", "kafka.send_offsets", "kafka.commit"),
}
PLACES = [(source, call) for source, calls in CALLS.items() for call in calls]


@pytest.fixture
def standing(breakable_servers: Servers, tmp_path: Path) -> Iterator[dict[str, tuple[Stage, Worker]]]:
    """Start a worker that freezes at each call of a cycle."""
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:

        def stand(place: tuple[Source, str]) -> tuple[Stage, Worker]:
            source, call = place
            stage = stack.enter_context(Stage(breakable_servers, tmp_path))
            worker = stage.worker(Plan(call, after=True, deed=Deed.FREEZE))
            stage.ask()
            stage.request()
            stage.until_drained()
            worker.order.armed.set()
            FEEDS[source](stage)
            stage.until(lambda: worker.frozen, f"the worker stands still after {call}")
            return stage, worker

        yield dict(zip([f"{s.value} after {c}" for s, c in PLACES], pool.map(stand, PLACES), strict=True))


@pytest.mark.proof
@pytest.mark.timeout(300)
@pytest.mark.parametrize("server", ["kafka", "postgres"])
def test_a_server_that_is_killed_at_any_call(
    breakable_servers: Servers, standing: dict[str, tuple[Stage, Worker]], server: str
) -> None:
    struck = breakable_servers.kafka if server == "kafka" else breakable_servers.postgres
    struck.kill()
    struck.start()

    def go_on(place: str) -> list[str]:
        stage, worker = standing[place]
        if server == "postgres":
            stage.reconnect()
        worker.send(signal.SIGCONT)
        try:
            stage.ask()
            stage.request()
            stage.until_drained()
            stage.stop()
        except AssertionError as error:
            return [str(error), stage.logged()]
        found = stage.problems()
        return [*found, stage.logged()] if found else []

    with ThreadPoolExecutor(4) as pool:
        problems = dict(zip(standing, pool.map(go_on, standing), strict=True))
    for place, found in problems.items():
        sys.stdout.writelines(f"{place}: {problem}\n" for problem in found)
        sys.stdout.write(f"{place}: {standing[place][1].restarts} restarts\n")
    assert [place for place, found in problems.items() if found] == []
