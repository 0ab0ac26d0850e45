"""A test's worker processes, and the means to send them another service's events."""

import multiprocessing
import os
import signal
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from functools import cache
from http.client import HTTPException
from multiprocessing.context import ForkServerProcess

import psycopg
from confluent_kafka import Producer
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from ..command import EXIT_AGAIN
from ..kafka import consumer
from ..kafka import producer as _producer
from ..settings import Settings
from . import crashing_worker
from .crashing_worker import Order
from .waiting import SECONDS_MAX, until

TIMEOUTS = {"session_timeout_ms": 1_000, "transaction_timeout_ms": 5_000}
"""The minimum that Kafka and the settings allow."""

CRASHES = (-signal.SIGABRT, -signal.SIGSEGV)
"""Exit codes of a process that was ended by its own C code."""

# Workers are forked from a process that imported everything once: a start then takes 20 ms instead of a second.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([module.__name__ for module in (crashing_worker, consumer, _producer, psycopg)])
_one_looks = threading.Lock()
"""An exit code can be read only once, and starting a process polls those of all others: a second reader would get 255.
Cells run on several threads.
"""


class StageSettings(Settings):
    """Settings that come only from the test, not from the environment in which it runs."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class Worker:
    """One worker process, and the supervisor that restarts it when its exit code asks for that."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.restarts = 0
        self.stopped = False
        self._turn = threading.Lock()
        self._start()

    def _start(self) -> None:
        process = processes.Process(target=crashing_worker.main, args=(self.order,))
        with _one_looks:
            process.start()
        self.process: ForkServerProcess = process

    def _replace(self) -> None:
        old = self.process
        self._start()
        with _one_looks:
            old.close()

    def supervise(self, *, crashed: bool = False) -> bool:
        """Restart it if it ended for that, or with `crashed` by a fault of a library; return whether it did. On a busy
        machine it may miss its session timeout: its client then fences itself, which it cannot survive.
        """
        with self._turn:
            if self.stopped or self.exitcode not in (CRASHES if crashed else (EXIT_AGAIN,)):
                return False
            self.restarts += 1
            self._replace()
            return True

    def again(self) -> None:
        """Restart it in its place, once it has ended."""
        self.ended()
        with self._turn:
            self._replace()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.exitcode is None

    @property
    def exitcode(self) -> int | None:
        """None while it runs."""
        with _one_looks:
            return self.process.exitcode

    @property
    def state(self) -> str:
        """What became of it."""
        import psutil  # not needed to run a rehearsal

        if not self.running:
            return f"ended with {self.exitcode}"
        return psutil.Process(self.pid).status()

    @property
    def frozen(self) -> bool:
        import psutil

        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        return False

    def send(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self.pid, number)

    def ended(self, seconds: float = SECONDS_MAX) -> int:
        """Wait for its end; return the exit code, negative for a signal."""

        def over() -> bool:
            self.supervise()
            return not self.running

        until(over, f"worker {self.pid} ends", seconds)
        assert self.exitcode is not None
        return self.exitcode

    def ready(self) -> tuple[int, str]:
        """The answer of /health/ready; status 0 while there is none. Needs the setting METRICS_PORT."""
        address = f"http://127.0.0.1:{self.order.settings.metrics_port}/health/ready"
        try:
            try:
                answer = urllib.request.urlopen(address, timeout=5)
            except urllib.error.HTTPError as refusal:
                answer = refusal
            with answer:
                return answer.status, answer.read().decode()
        except (OSError, HTTPException):  # it may end in the middle of an answer
            return 0, ""

    def log(self) -> str:
        return self.order.log.read_text(errors="replace")


def headers(event_id: str, event_type: str = "Asked.v1") -> list[tuple[str, bytes | str | None]]:
    """Return the headers of an event from elsewhere."""
    return [("ce_specversion", "1.0"), ("ce_source", "test"), ("ce_id", event_id), ("ce_type", event_type)]


@cache
def producer(bootstrap: str) -> Producer:
    """Create a producer, once."""
    return Producer({"bootstrap.servers": bootstrap, **_producer.IN_ORDER, "linger.ms": 1, "log_level": 0})
