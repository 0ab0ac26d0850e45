"""`make servers`: both servers in the background, for services that are started by hand or by a debugger."""

import json
import os
import signal
import subprocess
import sys
import time
from threading import Event

import psutil

from dev.servers.prepare import ROOT, prepare, service_names
from dev.servers.process import ServerError, say
from dev.servers.together import running

STATE_DIRECTORY = ROOT / ".servers"
STATE = STATE_DIRECTORY / "state.json"
LOG = STATE_DIRECTORY / "log"
ENV_FILE = ROOT / ".env.local"
ENV_HEAD = "# Written by `make servers`, removed by `make servers-down`."

UP_SECONDS_MAX = 600.0  # the first time, Kafka is downloaded
DOWN_SECONDS_MAX = 60.0
POLL_SECONDS = 0.1


def up(kafka_port: int | None, postgres_port: int | None) -> None:
    """Start the servers unless they run, prepare what the services need, and write `.env.local`."""
    state = _state()
    if state:
        say("Kafka and PostgreSQL are up already")
    else:
        state = _start(kafka_port, postgres_port)
    _write_env(state["bootstrap"], state["database_url"])
    say(f"Kafka       {state['bootstrap']}\nPostgreSQL  {state['database_url']}\nwritten to  {ENV_FILE.name}")
    prepare(state["bootstrap"], state["database_url"])


def down() -> None:
    """Stop the servers; their data goes with them."""
    state = _state()
    if state:
        process = psutil.Process(int(state["pid"]))
        process.terminate()
        try:
            process.wait(DOWN_SECONDS_MAX)
        except psutil.TimeoutExpired:
            process.kill()  # the guards end the servers then
    say("Kafka and PostgreSQL are down" if state else "Kafka and PostgreSQL were not up")
    STATE.unlink(missing_ok=True)
    if ENV_FILE.exists() and ENV_FILE.read_text().startswith(ENV_HEAD):
        ENV_FILE.unlink()


def serve(kafka_port: int | None, postgres_port: int | None) -> None:
    """Be the process in the background: hold the servers until SIGTERM."""
    done = Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    with running(kafka_port=kafka_port, postgres_port=postgres_port) as servers:
        state = {
            "pid": str(os.getpid()),
            "started": str(psutil.Process().create_time()),
            "bootstrap": servers.kafka.bootstrap,
            "database_url": servers.postgres.dsn("{service}"),
        }
        new = STATE.with_suffix(".new")
        new.touch(mode=0o600)  # it holds the password
        new.write_text(json.dumps(state, indent=2))
        new.replace(STATE)
        done.wait()


def _state() -> dict[str, str] | None:
    """Read what the process in the background has written, if that process still runs."""
    try:
        state: dict[str, str] = json.loads(STATE.read_text())
        process = psutil.Process(int(state["pid"]))
        # A pid is used again; a pid with its time of birth is not.
        alive = str(process.create_time()) == state["started"] and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return state if alive else None


def _start(kafka_port: int | None, postgres_port: int | None) -> dict[str, str]:
    """Start the process in the background, and show its log until it is ready."""
    STATE_DIRECTORY.mkdir(exist_ok=True)
    STATE.unlink(missing_ok=True)
    ports = {"--kafka-port": kafka_port, "--postgres-port": postgres_port}
    options = [word for name, port in ports.items() if port for word in (name, str(port))]
    with LOG.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dev.servers", "serve", *options],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + UP_SECONDS_MAX
    with LOG.open() as log:
        while not (state := _state()):
            sys.stderr.write(log.read())
            if process.poll() is not None:
                raise ServerError(f"the servers did not start:\n{log.read()}")
            if time.monotonic() > deadline:
                process.terminate()
                raise ServerError(f"the servers were not up within {UP_SECONDS_MAX:.0f} s")
            time.sleep(POLL_SECONDS)
        sys.stderr.write(log.read())
    return state


def _write_env(bootstrap: str, database_url: str) -> None:
    lines = [
        ENV_HEAD,
        "# Every service reads it. {service} stands for the service's own name.",
        f"KAFKA_BOOTSTRAP_SERVERS={bootstrap}",
        f"DATABASE_URL={database_url}",
    ]
    for number, name in enumerate(service_names()):
        lines += [
            "",
            f"# {name}, each in a terminal of its own:",
            f"#   HTTP_PORT={8000 + number} .venv/bin/python -m services.{name} api",
            f"#   .venv/bin/python -m services.{name} worker",
            f"{name.upper()}_DATABASE_URL={database_url.replace('{service}', name)}",
        ]
    ENV_FILE.unlink(missing_ok=True)
    ENV_FILE.touch(mode=0o600)  # it holds the password
    ENV_FILE.write_text("\n".join(lines) + "\n")
