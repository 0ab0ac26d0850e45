"""Processes of a service, started as by an operator: by its command line, from any tree and environment."""

import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import httpx
import psycopg
from confluent_kafka import Producer

from dev import processes
from dev.servers import Servers
from dev.servers.places import HOST, free_port
from dev.servers.process import environment
from shared.testing import SECONDS_MAX, until
from tests.faults.stage import headers

START_SECONDS = 120.0
"""For interpreters that start on a busy machine."""
TIMEOUTS = {"SESSION_TIMEOUT_MS": "1000", "TRANSACTION_TIMEOUT_MS": "5000", "PARTITIONS": "2"}


class Running:
    """Processes of one service on one database, from any tree."""

    def __init__(self, service: str, servers: Servers, logs: Path, program: Sequence[str] = ()) -> None:
        self.service = service
        self._program = list(program) or [sys.executable, "-m", f"services.{service}"]
        self._logs = logs
        self._servers = servers
        self._database = f"{service}_{uuid.uuid4().hex[:12]}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Running":
        self._servers.postgres.create_database(self._database)
        self._connection = psycopg.connect(self._servers.postgres.dsn(self._database), autocommit=True)
        return self

    def __exit__(self, *_: object) -> None:
        with self._connection:
            self.end(signal.SIGKILL)
        self._servers.postgres.drop_database(self._database)

    def command(self, root: Path, *words: str) -> str:
        """Run a command of the service, as the tree `root` has it; return its output."""
        done = subprocess.run(
            [*self._program, *words],
            cwd=self._logs,
            env=self._environment(root),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, root: Path, command: str) -> None:
        """Start a process from the tree `root`, and wait until it is ready."""
        port = free_port()
        env = self._environment(root) | {"METRICS_PORT" if command == "worker" else "HTTP_PORT": str(port)}
        log = self._logs / f"{self.service}-{len(self._processes)}.log"
        with log.open("wb") as output:
            process = processes.start([*self._program, command], env=env, cwd=self._logs, output=output)
        self._processes.append(process)

        def ready() -> bool:
            assert process.poll() is None, f"it ended with {process.returncode}:\n{log.read_text()}"
            try:
                return httpx.get(f"http://{HOST}:{port}/health/ready", timeout=5).is_success
            except httpx.TransportError:
                return False

        until(ready, f"the {command} of {self.service} in {root} is ready", START_SECONDS)

    def end(self, number: signal.Signals) -> None:
        """End all processes."""
        for process in self._processes:
            processes.send(process, number)
            process.wait(SECONDS_MAX)
        self._processes.clear()

    def rows(self, query: str) -> list[tuple[object, ...]]:
        return self._connection.execute(query.encode()).fetchall()

    def tell(self, topic: str, key: str, event_type: str, event_id: str = "", **fields: object) -> None:
        """Write an event to a topic that the service consumes."""
        producer = Producer(
            {"bootstrap.servers": self._servers.kafka.bootstrap, "enable.idempotence": True, "log_level": 0}
        )
        producer.produce(topic, json.dumps(fields), key, headers=headers(event_id or uuid.uuid4().hex, event_type))
        assert producer.flush(SECONDS_MAX) == 0

    def _environment(self, root: Path) -> dict[str, str]:
        return environment(
            PYTHONPATH=str(root),
            KAFKA_BOOTSTRAP_SERVERS=self._servers.kafka.bootstrap,
            DATABASE_URL=self._servers.postgres.dsn(self._database),
            HTTP_HOST=HOST,
            API_AUTH="off",
            **TIMEOUTS,
        )
