"""Three brokers as in production: an acknowledged record is on two of them, so one may die."""

import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from confluent_kafka.admin import AdminClient

from dev.servers.java import command
from dev.servers.kafka import CLEANUP, Controller, Kafka
from dev.servers.places import free_port
from dev.servers.process import POLL_SECONDS, Echo, ServerError, echo

NODES = 3
WHOLE_SECONDS_MAX = 60.0  # some seconds after the start of a broker
SETTINGS = {
    **dict.fromkeys(
        ("default.replication.factor", "offsets.topic.replication.factor", "transaction.state.log.replication.factor"),
        "3",
    ),
    **dict.fromkeys(("min.insync.replicas", "transaction.state.log.min.isr"), "2"),
    "unclean.leader.election.enable": "false",
    # Its brokers die and come back; see KAFKA-20734 in docs/protocol.md.
    CLEANUP: "10000",
}


class Cluster:
    """Three brokers, and a controller that outlives them. What is done to all brokers at once has the name that it has
    in `Kafka`; what is done to one is done to one of `brokers`.
    """

    def __init__(self, directory: Path, *, settings: Mapping[str, str] | None = None, report: Echo = echo) -> None:
        own = {**SETTINGS, **(settings or {})}
        self._directory = directory / "controller"
        self._report = report
        self._controller = Controller(own)
        self._names = {f"kafka-{node}.test": free_port() for node in range(1, NODES + 1)}
        self.brokers = tuple(
            Kafka(
                directory / f"kafka-{node}",
                settings=own,
                named=tuple(self._names.items())[node - 1],
                quorum=partial(self._controller.quorum, node),
                report=report,
            )
            for node in range(1, NODES + 1)
        )

    @property
    def bootstrap(self) -> str:
        return ",".join(broker.bootstrap for broker in self.brokers)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the brokers, for clients that know that they stand for this machine."""
        return tuple(self._names)

    @property
    def named_bootstrap(self) -> str:
        """Bootstrap address for clients that then use the brokers' names."""
        return ",".join(f"{name}:{port}" for name, port in self._names.items())

    def until_whole(self) -> None:
        """Wait until every replica has caught up; only then may the next broker die."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        deadline = time.monotonic() + WHOLE_SECONDS_MAX
        while lagging := [
            f"{topic.topic}[{partition.id}]"
            for topic in admin.list_topics(timeout=WHOLE_SECONDS_MAX).topics.values()
            for partition in topic.partitions.values()
            if len(partition.isrs) < len(partition.replicas)
        ]:
            if time.monotonic() > deadline:
                raise ServerError(f"{', '.join(lagging)}: a replica did not catch up in {WHOLE_SECONDS_MAX:.0f} s")
            time.sleep(POLL_SECONDS)

    def start(self) -> None:
        """Start all that do not run, side by side."""
        if not self._controller.running:
            self._controller.start(command(self._report), self._directory)
        self._all(Kafka.start)

    def kill(self) -> None:
        """End all at once, by SIGKILL."""
        self._all(Kafka.kill)

    def freeze(self) -> None:
        """Freeze all."""
        self._all(Kafka.freeze)

    def thaw(self) -> None:
        """Thaw all."""
        self._all(Kafka.thaw)

    def stop(self) -> None:
        """End all and remove their data."""
        self._all(Kafka.stop)
        self._controller.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _all(self, act: Callable[[Kafka], None]) -> None:
        with ThreadPoolExecutor(NODES) as pool:
            list(pool.map(act, self.brokers))
