"""`make servers`: both servers in the background, for services that are started by hand or by a debugger, and a console
that shows them.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import urlsplit

import psutil
from sqlalchemy import make_url

from dev.program import Program
from dev.servers.places import HOST, free_port, is_free
from dev.servers.prepare import ROOT, makes_calls, prepare, service_names
from dev.servers.process import ServerError, echo, environment
from dev.servers.together import running
from dev.service.entries import compose_port
from dev.supervisor import Supervisor
from shared.settings import Settings

ENV_HEAD = "# Written by `make servers`, removed by `make servers-down`."
FOREIGN = "{} is not one that `make servers` has written, and would be overwritten. Rename it: `.env` is read too."

UP_SECONDS_MAX = 600.0  # the first time, Kafka is downloaded
DOWN_SECONDS_MAX = 60.0
CONSOLE_SECONDS_MAX = 60.0  # it imports all services
POLL_SECONDS = 0.1

# Where the process in the background keeps its log, and says where the servers are; under the root of the repository.
HOME = Path(".servers")
STATE = HOME / "state.json"
LOG = HOME / "log"
BOOKS = HOME / "bank.sqlite"
"""Of the bank that payment asks. They go with the servers: the records of new ones have the numbers of the old ones,
and the bank would take their payments for those that it has booked.
"""
ENV_FILE = Path(".env.local")

CONSOLE = "console"
"""Its name for the supervisor, and of its address in the state."""
CONSOLE_PORT = int(Settings.model_fields["console_port"].default)


def up(root: Path, kafka_port: int | None, postgres_port: int | None) -> None:
    """Start the servers unless they run, prepare what the services need, and write `.env.local`."""
    _refuse_foreign(root)
    state = _state(root)
    if state:
        echo("Kafka and PostgreSQL are up already")
        if CONSOLE in state and not _renew_console(state):
            echo(f"The console does not answer; {HOME / f'{CONSOLE}.log'} says why. The servers go on.")
            del state[CONSOLE]
        _announce(root, state)
    else:
        _announce(root, _start(root, kafka_port, postgres_port))


def _renew_console(state: Mapping[str, str]) -> bool:
    """Start the console again: there may be a new service, or new code. One that was down is waited for; False if it
    does not come.
    """
    down = not _listens(state[CONSOLE])
    psutil.Process(int(state["pid"])).send_signal(signal.SIGHUP)
    if not down:
        return True
    echo("the console was down, and is started again")
    deadline = time.monotonic() + CONSOLE_SECONDS_MAX
    while not _listens(state[CONSOLE]):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _listens(address: str) -> bool:
    """Return whether anything takes connections there."""
    place = urlsplit(address)
    try:
        with socket.create_connection((place.hostname, place.port), timeout=1):
            return True
    except OSError:
        return False


@contextmanager
def borrowed(root: Path, kafka_port: int | None, postgres_port: int | None) -> Iterator[dict[str, str]]:
    """Use the servers that run already, which then stay; else start them, and stop them when the block ends."""
    _refuse_foreign(root)
    state = _state(root)
    if state:
        echo("Kafka and PostgreSQL are up already, and stay up afterwards")
        _announce(root, state)
        yield state
        return
    if (root / ENV_FILE).exists():
        echo(f"{ENV_FILE} is of servers that are gone, and is replaced")
    try:
        with held(root, kafka_port, postgres_port) as state:
            _announce(root, state)
            yield state
    finally:
        forget(root)


def _announce(root: Path, state: dict[str, str]) -> None:
    """Tell every process and the reader where the servers are, and prepare what the services need."""
    console = state.get(CONSOLE, "")
    _write_env(root / ENV_FILE, state["bootstrap"], state["database_url"], console)
    # Without the password: what is printed is seen over a shoulder, and kept in the logs of CI.
    address = make_url(state["database_url"])
    echo(
        f"Kafka       {state['bootstrap']}\nPostgreSQL  {address.host}:{address.port}, as {address.username}\n"
        f"written to  {ENV_FILE}, with the password"
    )
    if console:
        echo(f"console     {console}")
    prepare(state["bootstrap"], state["database_url"])


def is_up(root: Path) -> bool:
    """Return whether the servers run in the background."""
    return _state(root) is not None


def down(root: Path) -> None:
    """Stop the servers; their data goes with them."""
    state = _state(root)
    if state:
        process = psutil.Process(int(state["pid"]))
        process.terminate()
        try:
            process.wait(DOWN_SECONDS_MAX)
        except psutil.TimeoutExpired:
            process.kill()  # the guards end the servers then
    echo("Kafka and PostgreSQL are down" if state else "Kafka and PostgreSQL were not up")
    forget(root)


def forget(root: Path) -> None:
    """Remove what says where the servers are, and what the bank has booked for them."""
    (root / STATE).unlink(missing_ok=True)
    _forget_bookings(root)
    if not _is_foreign(root / ENV_FILE):
        (root / ENV_FILE).unlink(missing_ok=True)


def _forget_bookings(root: Path) -> None:
    for books in root.glob(f"{BOOKS}*"):  # SQLite keeps files beside it
        books.unlink(missing_ok=True)


def _is_foreign(env_file: Path) -> bool:
    return env_file.exists() and not env_file.read_text(errors="replace").startswith(ENV_HEAD)


def _refuse_foreign(root: Path) -> None:
    """Raise `ServerError` for a file that somebody else has written."""
    if _is_foreign(root / ENV_FILE):
        raise ServerError(FOREIGN.format(ENV_FILE))


def serve(root: Path, kafka_port: int | None, postgres_port: int | None) -> None:
    """Run as the background process: hold the servers and a console until SIGTERM. SIGHUP starts the console again."""
    asked: SimpleQueue[int] = SimpleQueue()  # a signal handler may put something in at any moment; Event.set may hang
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: asked.put(number))
    shown = bool(service_names())
    port = console_port()
    more = {CONSOLE: f"http://{HOST}:{port}/"} if shown else {}
    with held(root, kafka_port, postgres_port, more) as state, Supervisor(root / HOME) as supervisor:
        if shown:
            (root / HOME / f"{CONSOLE}.log").unlink(missing_ok=True)  # of earlier servers
            supervisor.start(_console(root, state, port))
        while asked.get() != signal.SIGTERM:
            if shown:
                supervisor.restart(CONSOLE)


def console_port(wanted: int = CONSOLE_PORT) -> int:
    """Return the port that a console has by default; if that is taken, another."""
    return wanted if is_free(wanted) else free_port()


def _console(root: Path, state: Mapping[str, str], port: int) -> Program:
    """Return what shows all services. The kernel ends it with us, whatever ends us."""
    env = environment(
        PYTHONPATH=str(ROOT),
        PYTHONUNBUFFERED="1",
        KAFKA_BOOTSTRAP_SERVERS=state["bootstrap"],
        DATABASE_URL=state["database_url"],
        API_AUTH="off",
        CONSOLE_HOST=HOST,
        CONSOLE_PORT=str(port),
    )
    return Program(CONSOLE, (sys.executable, "-m", f"services.{service_names()[0]}", "console"), env, root)


@contextmanager
def held(
    root: Path, kafka_port: int | None, postgres_port: int | None, more: Mapping[str, str] | None = None
) -> Iterator[dict[str, str]]:
    """Hold the servers in this process, where `up` and `down` find them, until the block ends; they find `more` too."""
    (root / HOME).mkdir(exist_ok=True)
    _forget_bookings(root)  # of servers that somebody has killed
    with running(kafka_port=kafka_port, postgres_port=postgres_port) as servers:
        state = {
            "pid": str(os.getpid()),
            "started": str(psutil.Process().create_time()),
            "bootstrap": servers.kafka.bootstrap,
            "database_url": servers.postgres.dsn("{service}"),
            **(more or {}),
        }
        new = (root / STATE).with_suffix(".new")
        new.touch(mode=0o600)  # it holds the password
        new.write_text(json.dumps(state, indent=2))
        new.replace(root / STATE)
        yield state


def _state(root: Path) -> dict[str, str] | None:
    """Read what the process in the background has written, if that process still runs. A file that it cannot have
    written says nothing.
    """
    try:
        state: dict[str, str] = json.loads((root / STATE).read_text())
        process = psutil.Process(int(state["pid"]))
        # A pid is used again; a pid with its time of birth is not.
        alive = str(process.create_time()) == state["started"] and process.status() != psutil.STATUS_ZOMBIE
        alive = alive and {"bootstrap", "database_url"} <= state.keys()
    except (FileNotFoundError, psutil.NoSuchProcess, ValueError, KeyError, TypeError):
        return None
    return state if alive else None


def _start(root: Path, kafka_port: int | None, postgres_port: int | None) -> dict[str, str]:
    """Start the process in the background, and show its log until it is ready."""
    (root / HOME).mkdir(exist_ok=True)
    (root / STATE).unlink(missing_ok=True)
    ports = {"--kafka-port": kafka_port, "--postgres-port": postgres_port}
    options = [word for name, port in ports.items() if port for word in (name, str(port))]
    with (root / LOG).open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dev.servers", "serve", "--root", root, *options],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + UP_SECONDS_MAX
    with (root / LOG).open() as log:
        while True:
            ended = process.poll() is not None
            state = _state(root)
            sys.stderr.write(log.read())
            if state:
                return state
            if ended:
                raise ServerError("The servers did not start.")
            if time.monotonic() > deadline:
                process.terminate()
                raise ServerError(f"The servers were not up within {UP_SECONDS_MAX:.0f} s; gave up.")
            time.sleep(POLL_SECONDS)


def _write_env(file: Path, bootstrap: str, database_url: str, console: str = "") -> None:
    lines = [
        ENV_HEAD,
        "# Every service reads it. {service} stands for the service's own name.",
        f"KAFKA_BOOTSTRAP_SERVERS={bootstrap}",
        f"DATABASE_URL={database_url}",
        "# The APIs listen on this machine only, and let anyone in.",
        "API_AUTH=off",
        *([f"# The console, which runs: {console}"] if console else []),
    ]
    for name in service_names():
        lines += [
            "",
            f"# {name}, each in a terminal of its own:",
            f"#   HTTP_PORT={compose_port(name)} .venv/bin/python -m services.{name} api",
            f"#   .venv/bin/python -m services.{name} worker",
            *([f"#   .venv/bin/python -m services.{name} caller"] if makes_calls(name) else []),
            f"#   psql '{database_url.replace('{service}', name)}'",
        ]
    if (ROOT / "dev" / "bank.py").exists():
        lines += ["", "# The bank that payment asks:", f"#   .venv/bin/python -m dev.bank --books {BOOKS}"]
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)  # it holds the password
    file.write_text("\n".join(lines) + "\n")
