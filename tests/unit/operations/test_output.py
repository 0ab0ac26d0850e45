"""Commands' output shows on every terminal, does nothing to it, and ends quietly when its reader leaves."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dev.servers import service_names
from shared.command import EXIT_INTERRUPTED
from shared.operations import output
from shared.operations.dead_letters import readable
from shared.testing import SECONDS_MAX
from tests.signals import not_ignored

ROOT = Path(__file__).parents[3]
SERVICE = service_names()[0]
HOSTILE = "a\x1b[31m\x00\x07\r\nb\u202ec\ud800\x9b\u2028\u200bé漢😀"
SERVERLESS = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str) -> str:
    """Return hostile text printed in every way."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    output.echo(HOSTILE)
    output.columns(("HEAD",), [(HOSTILE,)])
    output.as_json({HOSTILE: HOSTILE})
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_hostile_text_on_any_terminal(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    text = printed(monkeypatch, encoding)

    assert all(line.isprintable() for line in text.splitlines())
    lines = text.splitlines()
    assert len(lines) == 6, "a record makes no lines of its own"
    assert lines[0].startswith(r"a\x1b[31m\x00\x07\r\nb\u202ec\ud800\x9b\u2028\u200b")
    assert ("漢" in lines[0]) is (encoding == "utf-8")
    assert json.loads("".join(lines[3:])) == {HOSTILE: HOSTILE}
    assert "".join(lines[3:]).isascii()


@pytest.mark.parametrize("value", [b"[" * 900 + b"]" * 900, b"[1e999]", b'{"a": NaN}', b'{"x": "\\ud800"}', b"\xff"])
def test_whatever_a_value_is_it_can_be_shown_as_json(value: bytes) -> None:
    found = readable(value)

    json.loads(json.dumps(found, indent=2, allow_nan=False))


def run_into_a_closed_pipe(*command: str, close: str = "stdout") -> tuple[int, str]:
    """Run a command whose output is not read; return its exit code, and its standard error."""
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **SERVERLESS},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, close: write},  # type: ignore[call-overload]
    )
    os.close(write)
    out, err = process.communicate(timeout=60)
    return process.returncode, ((out or b"") + (err or b"")).decode()


@pytest.mark.parametrize("line", ["token shop orders:read", "--help", "positions --help"])
def test_a_closed_pipe_is_no_trouble(line: str) -> None:
    assert run_into_a_closed_pipe("-m", f"services.{SERVICE}", *line.split()) == (0, "")


def test_a_closed_pipe_for_errors_is_none_either() -> None:
    code, told = run_into_a_closed_pipe("-m", f"services.{SERVICE}", "dead-letters", "list", close="stderr")
    assert (code, told) == (75, "")


def test_the_work_goes_on_when_nobody_reads_on() -> None:
    """A redrive of many dead letters must not end in the middle because of `| head -1`."""
    code = """
from dev.servers import service_names
from shared.command import EXIT_INTERRUPTED
from shared.operations import output
import sys
for n in range(1000):
    output.echo(str(n))
sys.stderr.write(f"done {n}")
"""
    assert run_into_a_closed_pipe("-c", code) == (0, "done 999")


def test_a_process_without_standard_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    output.echo("x")
    output.note("x")
    output.end_quietly()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("line", ["token shop orders:read", "--help"])
def test_an_answer_that_cannot_be_written_is_reported_in_a_sentence(line: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", f"services.{SERVICE}", *line.split()],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **SERVERLESS},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        74,
        "the output cannot be written: No space left on device; the command goes on without it\n",
    )


def test_a_list_says_that_there_are_more(capsys: pytest.CaptureFixture[str]) -> None:
    def show(most: int, *, json: bool) -> str:
        output.oldest(
            ["a", "bc"], most, json=json, facts=str.upper, heads=("NAME", "SIZE"), cells=lambda name: (name, len(name))
        )
        return capsys.readouterr().out

    assert show(2, json=False) == "NAME  SIZE\na     1\nbc    2\n"
    assert show(1, json=False) == "NAME  SIZE\na     1\n... the oldest 1; --limit shows more\n"
    assert json.loads(show(1, json=True)) == ["A"]


def test_a_command_that_is_interrupted_ends_without_a_traceback() -> None:
    """PostgreSQL lets it in and says nothing, so it waits."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(SECONDS_MAX)
        url = f"postgresql://x@127.0.0.1:{silent.getsockname()[1]}/x"
        waiting = subprocess.Popen(
            [sys.executable, "-m", f"services.{SERVICE}", "parked", "list"],
            cwd=ROOT,
            env={**os.environ, **SERVERLESS, "DATABASE_URL": url},
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=not_ignored,  # noqa: PLW1509 - it touches no lock
        )
        connection, _ = silent.accept()
        with connection, waiting:
            waiting.send_signal(signal.SIGINT)
            _, told = waiting.communicate(timeout=SECONDS_MAX)
    assert (waiting.returncode, told) == (EXIT_INTERRUPTED, "")
