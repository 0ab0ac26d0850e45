"""Databases, topics and tables for the services of this repository, by the commands that an operator would use."""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psycopg

from dev.servers.postgres import create_database
from dev.servers.process import Echo, ServerError, echo
from shared.postgres.session_settings import forget_libpq_variables

ROOT = Path(__file__).parents[2]
COMMAND_SECONDS_MAX = 600.0
"""Migrations of an empty database take a second; six commands at once on two cores take a few, and minutes on a machine
that is badly overloaded.
"""


def service_names() -> list[str]:
    """Name the services: the folders of `services/` that can be run."""
    return sorted(path.parent.name for path in (ROOT / "services").glob("*/__main__.py"))


def makes_calls(service: str) -> bool:
    """Whether a service asks third parties, and so has callers."""
    return (ROOT / "services" / service / "calls.py").exists()


def prepare(bootstrap: str, database_url: str, services: Iterable[str] | None = None, report: Echo = echo) -> None:
    """Make the database of every service, then its topics and its tables. What is there already, stays.

    In `database_url`, `{service}` stands for the name of each service, as in the services' own setting.
    """
    forget_libpq_variables()
    names = service_names() if services is None else list(services)
    for name in names:
        with suppress(psycopg.errors.DuplicateDatabase):
            create_database(database_url.replace("{service}", "postgres"), name)
    if not names:
        return
    report(f"Preparing topics and tables for {', '.join(names)} ...")
    # Side by side: each is mostly the start of an interpreter. A service's own commands keep their order.
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: _prepare(name, bootstrap, database_url.replace("{service}", name)), names))
    report(f"Topics and tables are in place for {', '.join(names)}")


def _prepare(name: str, bootstrap: str, dsn: str) -> None:
    env = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": bootstrap, "DATABASE_URL": dsn}
    for command in ("topics --consumed", "migrate"):
        run_command(name, command, env)


def run_command(service: str, command: str, env: Mapping[str, str], cwd: Path = ROOT) -> None:
    """Run a command of a service. Raises `ServerError` if it fails, or takes too long."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"services.{service}", *command.split()],
            env=env,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ServerError(
            f"`python -m services.{service} {command}` did not end within {COMMAND_SECONDS_MAX:.0f} s, and was killed; "
            "is the machine overloaded, or does another session lock a table?"
        ) from None
    if done.returncode:
        raise ServerError(f"`python -m services.{service} {command}` failed:\n{done.stdout}{done.stderr}")
