"""Docker, for one compose project: its commands, its containers, and ways to strike them."""

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dev.servers import ServerError

ROOT = Path(__file__).parents[1]
COMMAND_SECONDS = 300.0  # containers that do not end by themselves are given their grace periods
READY_SECONDS = 600.0  # a broker that was killed is there again after a quarter of a minute, unless the machine is busy
POLL_SECONDS = 0.5  # each look is a process
OUTPUT_LINES = 40

KILL_ALL = ("sh", "-c", "kill -s KILL -- -1")
"""Kills everything in a container but its first process, an init, which then ends too.

Not `docker kill`: Docker takes that for the wish of an operator and does not start the container again.
"""
KILLED = (0, 137)
"""The killer may die with the container before it reports success."""


class Docker:
    """Runs docker for one compose project."""

    def __init__(self, project: str, environment: Mapping[str, str], profiles: Iterable[str]) -> None:
        self.project = project
        self._environment = os.environ | dict(environment)
        self._profiles = [word for profile in profiles for word in ("--profile", profile)]

    def compose(self, *words: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run `docker compose ...` and return its output. Raises `ServerError`."""
        return self.docker("compose", "--project-name", self.project, *self._profiles, *words, seconds=seconds)

    def docker(self, *words: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run `docker ...` and return its output. Raises `ServerError`."""
        done = self.run(*words, seconds=seconds)
        if done.returncode:
            end = "\n".join((done.stdout + done.stderr).splitlines()[-OUTPUT_LINES:])
            raise ServerError(f"`docker {' '.join(words)}` failed:\n{end}")
        return done.stdout

    def run(self, *words: str, seconds: float = COMMAND_SECONDS) -> "subprocess.CompletedProcess[str]":
        """Run `docker ...`; it may fail. Raises `ServerError` if there is no docker, or no answer."""
        try:
            return subprocess.run(
                ["docker", *words],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
                start_new_session=True,  # Ctrl+C is ours; what docker has begun, `down` undoes
            )
        except FileNotFoundError:
            raise ServerError("docker is not installed") from None
        except subprocess.TimeoutExpired:
            raise ServerError(f"`docker {' '.join(words)}` took longer than {seconds:.0f} s") from None

    def container(self, name: str) -> str:
        """Return the container of `order api`, `order worker 2` or `postgres`."""
        service, number = (name, "1") if not name[-1:].isdigit() or " " not in name else name.rsplit(" ", 1)
        return f"{self.project}-{service.replace(' ', '-')}-{number}"

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what docker knows about a container."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", self.container(name)))
        return found[0]

    def kill(self, name: str) -> bool:
        """Kill everything in a container, as a crash does; False if it was not running."""
        return self.run("exec", self.container(name), *KILL_ALL).returncode in KILLED

    def ready(self, name: str) -> bool:
        """Return whether a container runs and its health check passes."""
        state = self.inspect(name)["State"]
        return bool(state["Running"]) and state.get("Health", {}).get("Status") == "healthy"


class Containers:
    """The services' containers: Docker keeps them alive, and this strikes them."""

    def __init__(self, docker: Docker, names: tuple[str, ...]) -> None:
        self._docker = docker
        self._kills: Counter[str] = Counter()
        self.names = names

    def kill(self, name: str) -> bool:
        """Kill a container's processes with SIGKILL; Docker starts it again. False if it was not running."""
        hit = self._docker.kill(name)
        self._kills[name] += hit
        return hit

    def freeze(self, name: str) -> bool:
        """Stop a container in the middle of whatever it does, until `thaw`. False if it was not running."""
        return self._docker.run("pause", self._docker.container(name)).returncode == 0

    def thaw(self, name: str) -> bool:
        """Let a frozen container continue. False if it was not frozen."""
        return self._docker.run("unpause", self._docker.container(name)).returncode == 0

    def causes(self) -> Counter[str]:
        """Count the unordered restarts, by container; Docker does not keep why."""
        restarts = {name: self._docker.inspect(name)["RestartCount"] - self._kills[name] for name in self.names}
        return Counter({f"{name}: restarted": count for name, count in restarts.items() if count > 0})

    def check(self) -> None:
        """Do nothing: Docker gives no container up."""


class Server:
    """A server in a container."""

    def __init__(self, docker: Docker, name: str) -> None:
        self._docker = docker
        self._name = name
        self._killed: str | None = None

    def kill(self) -> None:
        """Kill all its processes with SIGKILL; Docker starts it again."""
        self._killed = self._docker.inspect(self._name)["State"]["StartedAt"]
        self._docker.kill(self._name)

    def start(self) -> None:
        """Wait until Docker has started it again and it is healthy. Raises `ServerError`."""
        deadline = time.monotonic() + READY_SECONDS
        while (
            self._docker.inspect(self._name)["State"]["StartedAt"] == self._killed
            or not self._docker.ready(self._name)
        ):  # fmt: skip
            if time.monotonic() > deadline:
                raise ServerError(f"{self._name} was not healthy within {READY_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)
