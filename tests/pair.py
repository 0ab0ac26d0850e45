"""One Kafka and one PostgreSQL for all processes of a run. The process that hands out the tests starts them when the
first test needs them.
"""

import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dev.servers import ServerError, Servers, attached, running
from shared.testing.waiting import POLL_SECONDS, until

START_SECONDS_MAX = 120.0
"""Kafka starts in 3 s on two idle cores; here every process of the run imports its tests meanwhile."""

STOP_SECONDS_MAX = 60.0


class Held:
    """The servers of a run, in a thread of the process that hands out tests."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="exactly-once-tests-")
        self.folder = Path(self._folder.name)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._hold, daemon=True)
        self._thread.start()

    def _hold(self) -> None:
        while not (self.folder / "wanted").exists():
            if self._over.wait(POLL_SECONDS):
                return
        try:
            with running(report=lambda _: None) as servers:
                self._answer({"kafka": servers.kafka.bootstrap, "postgres": servers.postgres.dsn()})
                self._over.wait()
        except ServerError as error:
            self._answer({"error": str(error)})

    def _answer(self, answer: dict[str, str]) -> None:
        new = self.folder / "new"
        new.write_text(json.dumps(answer))  # it holds the password, and the folder is ours alone
        new.rename(self.folder / "answer")

    def end(self) -> None:
        """Stop the servers."""
        self._over.set()
        self._thread.join(STOP_SECONDS_MAX)
        self._folder.cleanup()


class HoldsServers:
    """The plugin of the process that hands out the tests."""

    def __init__(self) -> None:
        self._held = Held()

    def pytest_configure_node(self, node: Any) -> None:
        """Tell a process where it finds the servers."""
        node.workerinput["servers"] = str(self._held.folder)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Stop the servers: all processes have ended."""
        self._held.end()


@contextmanager
def servers_of_run(config: pytest.Config) -> Iterator[Servers]:
    """Use the servers that all processes share; in a run of one process, those of its own."""
    told = getattr(config, "workerinput", {}).get("servers")
    if told is None:
        with running() as started:
            yield started
        return
    folder = Path(told)
    (folder / "wanted").touch()
    until((folder / "answer").exists, "the servers of this run are up", START_SECONDS_MAX)
    answer = json.loads((folder / "answer").read_text())
    if "error" in answer:
        raise ServerError(answer["error"])
    yield attached(answer["kafka"], answer["postgres"])
