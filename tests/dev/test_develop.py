"""`make dev` with services that have no servers: which change restarts what, one log, every way to end."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from watchfiles import Change

from dev.develop import __main__ as develop
from dev.develop import fleet, merged
from dev.develop.changes import Concern, Files, concern, told
from dev.develop.ending import SIGNALS, Ended, Ending
from dev.develop.merged import MergedLog, colours, in_colour
from dev.servers import ServerError, background
from dev.servers.places import HOST, free_port, is_free
from dev.servers.process import environment
from dev.service.entries import FIRST_PORT
from shared.testing import SECONDS_MAX, until
from tests.dev.terminal import CTRL_C, END_SECONDS, Terminal

ROOT = Path(__file__).parents[2]
SERVICES = ("apple", "pear")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("services/apple/handlers.py", Concern(restart={"apple"})),
        ("services/apple/rules/prices.yaml", Concern(restart={"apple"})),
        ("services/__init__.py", Concern(restart={"apple", "pear"})),
        ("shared/postgres/outbox.py", Concern(restart={"apple", "pear"})),
        ("shared/settings.py", Concern(restart={"apple", "pear"})),
        ("migrations/apple/0011_pre_colour.py", Concern(migrate={"apple"})),
        ("migrations/library/__init__.py", Concern(migrate={"apple", "pear"})),
        ("shared/revisions/r0008.py", Concern(migrate={"apple", "pear"})),
        ("services/plum/handlers.py", Concern(unknown={"plum"})),
        ("migrations/plum/0001_pre_tables.py", Concern(unknown={"plum"})),
        ("migrations/env.py", Concern()),
        ("services/apple/README.md", Concern()),
        ("shared/CHANGELOG.md", Concern()),
        ("shared/testing/scene.py", Concern()),
    ],
)
def test_a_change_concerns(path: str, expected: Concern) -> None:
    assert concern([Path(path)], SERVICES) == expected


def test_changes_at_once_concern_all_that_each_concerns() -> None:
    paths = [Path("services/apple/models.py"), Path("migrations/apple/0011_pre_colour.py"), Path("services/plum/x.py")]
    assert concern(paths, SERVICES) == Concern({"apple"}, {"apple"}, {"plum"})
    assert told(paths) == "migrations/apple/0011_pre_colour.py, services/apple/models.py and 1 more"


def test_what_an_editor_writes_for_a_moment_is_no_change() -> None:
    named = ("services/apple/sedhRJtpY", "services/apple/4913", "services/apple/.rules.py.swp")
    watched = Files()
    assert not any(watched(Change.added, name) for name in named)
    assert all(watched(Change.modified, f"services/apple/{name}") for name in ("sediment.py", "seed", "rules.yaml"))


def test_each_process_has_a_colour_of_its_own() -> None:
    processes = {"apple": ("apple api", "apple worker"), "pear": ("pear api", "pear worker", "pear caller")}
    made = colours(processes)
    assert list(made) == [name for names in processes.values() for name in names]
    assert len(set(made.values())) == len(made)
    assert {made[name][-2:] for name in processes["pear"]} == {made["pear api"][-2:]}, "a service has one hue"


@pytest.mark.parametrize(
    ("terminal", "variables", "expected"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_a_terminal_of_somebody_who_wants_them(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, variables: dict[str, str], expected: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    assert in_colour(out) is expected


def test_lines_of_all_files_are_in_the_order_of_their_times(tmp_path: Path) -> None:
    """A line without a time stays behind the one that it belongs to. The last may have no end yet."""
    files = {name: tmp_path / name for name in ("apple api", "pear worker", "not started")}
    files["apple api"].write_text("2026-11-30T06:00:00.200000Z asked\nTraceback\n2026-11-30T06:00:00.400000Z again\n")
    files["pear worker"].write_text("2026-11-30T06:00:00.100000Z before\n2026-11-30T06:00:00.300000Z between\ncut")
    out = io.StringIO()
    with MergedLog(out, files) as log:
        until(lambda: "again" in out.getvalue())
        log.say("one\ntwo")
    assert out.getvalue().splitlines() == [
        "pear worker | 2026-11-30T06:00:00.100000Z before",
        "apple api   | 2026-11-30T06:00:00.200000Z asked",
        "apple api   | Traceback",
        "pear worker | 2026-11-30T06:00:00.300000Z between",
        "apple api   | 2026-11-30T06:00:00.400000Z again",
        "make dev    | one",
        "make dev    | two",
        "pear worker | cut",
    ]


def test_a_line_and_a_file_without_end_have_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged, "LINE_BYTES_MAX", 100)
    monkeypatch.setattr(merged, "FILE_BYTES_MAX", 1_000)
    file, out = tmp_path / "log", io.StringIO()
    with MergedLog(out, {"apple api": file}), file.open("ab", buffering=0) as writing:
        writing.write(b"x" * 2_000)
        until(lambda: out.getvalue().count("x") == 2_000)
        until(lambda: file.stat().st_size == 0)
        writing.write(b"\xffafterwards\n")
        until(lambda: "\ufffdafterwards" in out.getvalue())


def test_a_file_that_was_removed_and_begins_anew_is_shown(tmp_path: Path) -> None:
    """As `git clean` removes it, or `rm -r .servers/dev`."""
    file, out = tmp_path / "log", io.StringIO()
    file.write_text("a first line that is longer\nand has no end yet")
    with MergedLog(out, {"apple api": file}):
        until(lambda: "a first line" in out.getvalue())
        file.unlink()
        file.write_text("anew\n")
        until(lambda: out.getvalue().endswith("apple api | anew\n"))


def test_an_output_that_nobody_reads_is_noticed(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as out, MergedLog(out, {"apple api": tmp_path / "log"}) as log:
        log.say("somebody reads")
        assert b"somebody reads" in os.read(reading, 1_000)
        assert not log.broken
        os.close(reading)
        log.say("nobody reads")
        until(lambda: log.broken)
        log.say("nor this")


def test_every_process_has_a_port_and_every_api_the_one_of_docker_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "makes_calls", lambda service: service == "pear")
    monkeypatch.setattr(fleet, "ROOT", Path("/nowhere"))
    first = free_port()
    made = fleet.fleet(SERVICES, first)
    names = ["apple api", "apple worker", "pear api", "pear worker", "pear caller", "console"]
    assert [process.name for process in made] == names
    assert len({process.port for process in made}) == len(made)
    assert all(first <= process.port < first + 100 for process in made if process.kind == "api")


def test_a_port_that_is_taken_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "compose_port", lambda _: FIRST_PORT)
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"Port {port}, for the api of apple, is taken") as refusal:
            fleet.fleet(("apple",), port)
    suggested = int(str(refusal.value).rpartition("make dev PORT=")[2])
    assert abs(suggested - port) == fleet.OTHER_PORTS
    assert suggested + fleet.CONSOLE_ABOVE + fleet.BANK_PORT < fleet.PORT_MAX


def test_a_console_has_another_port_if_its_own_is_taken() -> None:
    first = next(port for port in iter(free_port, 0) if is_free(port + fleet.CONSOLE_ABOVE))
    assert fleet.fleet(SERVICES, first)[-1].port == first + fleet.CONSOLE_ABOVE
    with socket.create_server((HOST, first + fleet.CONSOLE_ABOVE)) as taken:
        console = fleet.fleet(SERVICES, first)[-1]
        assert console.kind == "console"
        assert console.port not in {0, taken.getsockname()[1]}


def test_ports_that_are_too_high_are_refused() -> None:
    with pytest.raises(ServerError, match=r"PORT=65535 leaves no port for the \w+ of \w+: it is too high"):
        fleet.fleet(SERVICES, 65_535)


def test_the_worker_in_the_foreground_has_no_timeouts_and_all_find_the_bank(tmp_path: Path) -> None:
    worker, bank = fleet.Process("apple", "worker", 1), fleet.Process("payment", "bank", 2)
    for debugged in (False, True):
        made = fleet.program(worker, "kafka:1", "url", tmp_path, bank=bank, debugged=debugged)
        assert made.foreground is debugged
        assert made.env.get("DEBUG_NO_TIMEOUTS") == ("true" if debugged else os.environ.get("DEBUG_NO_TIMEOUTS"))
        assert made.env["PAYMENT_BANK_URL"] == f"http://{HOST}:2"
        assert made.env["METRICS_PORT"] == "1"


@pytest.mark.parametrize("use", [background.up, lambda *given: background.borrowed(*given).__enter__()])
def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path, use: Callable[..., object]) -> None:
    (tmp_path / ".env.local").write_text("KAFKA_BOOTSTRAP_SERVERS=elsewhere:9092\n")
    with pytest.raises(ServerError, match=r"\.env\.local is not one that `make servers` has written.*Rename it"):
        use(tmp_path, None, None)
    background.forget(tmp_path)
    assert "elsewhere" in (tmp_path / ".env.local").read_text()


def test_servers_that_ran_before_stay_and_others_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"pid": str(os.getpid()), "started": str(psutil.Process().create_time())}
    state |= {"bootstrap": "kafka:9092", "database_url": "url"}
    place, env_file = tmp_path / background.STATE, tmp_path / background.ENV_FILE

    @contextmanager
    def held(*_: object) -> Iterator[dict[str, str]]:
        place.parent.mkdir()
        place.write_text(json.dumps(state))
        yield state

    monkeypatch.setattr(background, "held", held)
    monkeypatch.setattr(background, "_announce", lambda *_: env_file.write_text(f"{background.ENV_HEAD}\nNEW=1\n"))
    env_file.write_text(f"{background.ENV_HEAD}\nOLD=1\n")
    with background.borrowed(tmp_path, None, None):
        assert ".env.local is of servers that are gone, and is replaced" in capsys.readouterr().err
        assert "NEW" in env_file.read_text()
        with background.borrowed(tmp_path, None, None):
            assert "are up already, and stay up afterwards" in capsys.readouterr().err
        assert env_file.exists()
    assert not env_file.exists()
    assert not place.exists()


# A session of real processes that need no servers.

SERVICE = """
import http.server, os, signal, sys, threading, time
from services.{name} import rules

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if "DEBUG_NO_TIMEOUTS" not in os.environ else 503)
        self.end_headers()

    def log_message(self, *_):
        pass

port = int(next(os.environ[name] for name in ("HTTP_PORT", "METRICS_PORT", "CONSOLE_PORT") if name in os.environ))
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Health)
threading.Thread(target=server.serve_forever, daemon=True).start()
asked = threading.Event()
asks = 0

def ask(number, frame):
    global asks
    asks += 1
    if asks > 1:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    asked.set()

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, ask)
print("pid", os.getpid(), rules.SAID, flush=True)
while not asked.wait(0.05):
    rules.work(sys.argv[1])
time.sleep(0.3)  # its batch
print("finished what was begun", flush=True)
"""
RULES = "SAID = 'first'\n\ndef work(kind):\n    pass\n"

STANDING = """
import pathlib
SAID = "first"
wish = pathlib.Path("wish")

def work(kind):
    if kind == "worker" and wish.exists():
        wish.unlink()
        answer = 41
        breakpoint()
        print("the answer is", answer, flush=True)
"""

SESSION = """
import sys
from contextlib import contextmanager
from pathlib import Path
from dev.develop import __main__, fleet, session

session.ROOT = fleet.ROOT = Path.cwd()
session.service_names = lambda: sorted(file.parent.name for file in Path("services").glob("*/__main__.py"))
session.forget = lambda root: None

@contextmanager
def borrowed(*_):
    try:
        yield {"pid": "0", "bootstrap": "kafka:9092", "database_url": "url"}
    finally:
        print("the servers are down", flush=True)

session.borrowed = borrowed
session.ALONE_SECONDS = 1.0
sys.exit(__main__.main())
"""

# Two changes of a file within one second would have one time in its compiled form.
ENV = environment(PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1", TERM="dumb")
Begin = Callable[..., Terminal]


@contextmanager
def sessions(root: Path, *services: str) -> Iterator[Begin]:
    """Give what begins a session of these services in a terminal, and end those that were begun."""
    for name in services:
        (root / "services" / name).mkdir(parents=True)
        (root / "services" / name / "__init__.py").touch()
        (root / "services" / name / "__main__.py").write_text(SERVICE.format(name=name))
        (root / "services" / name / "rules.py").write_text(RULES)
    for name in ("services/__init__.py", "shared/library.py", "migrations/apple/0001.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    begun: list[Terminal] = []

    def begin(*options: str, ready: bool = True) -> Terminal:
        words = [sys.executable, "-c", SESSION, *(options or ("--port", str(free_port())))]
        begun.append(Terminal(words, root, ENV))
        if ready:
            begun[-1].until("Everything is ready", seconds=SECONDS_MAX)
        return begun[-1]

    yield begin
    for terminal in begun:
        terminal.__exit__(*sys.exc_info())


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Begin a session of one service, which the test ends."""
    with sessions(tmp_path, "pear") as begin:
        yield begin


class Session(NamedTuple):
    """One that goes on."""

    root: Path
    begin: Begin
    terminal: Terminal


@pytest.fixture(scope="module")
def _session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    root = tmp_path_factory.mktemp("session")
    with sessions(root, *SERVICES) as begin:
        yield Session(root, begin, begin())


@pytest.fixture
def session(_session: Session) -> Iterator[Session]:
    """One session of two services, for tests that leave it running."""
    yield _session
    sys.stdout.write(_session.terminal.text)  # pytest shows it if the test has failed


def pids(terminal: Terminal) -> dict[str, list[int]]:
    """Return the ids of each process, in the order of its starts, as its own lines say."""
    found: dict[str, list[int]] = {}
    for name, pid in re.findall(r"^(\w+(?: \w+)?) +\| pid (\d+)", terminal.text, re.MULTILINE):
        found.setdefault(name, []).append(int(pid))
    return found


def finishes(terminal: Terminal) -> list[str]:
    """Return which processes of services have said that they finish what they have begun."""
    return re.findall(r"^(\w+(?: \w+)?) +\| finished what was begun", terminal.text, re.MULTILINE)


def all_gone(terminal: Terminal) -> bool:
    return not any(psutil.pid_exists(pid) for starts in pids(terminal).values() for pid in starts)


def starts(terminal: Terminal) -> dict[str, int]:
    return {name: len(each) for name, each in pids(terminal).items()}


def test_a_change_restarts_the_service_that_it_concerns_and_no_other(session: Session) -> None:
    root, terminal = session.root, session.terminal
    before, finished = starts(terminal), len(finishes(terminal))
    rules = root / "services" / "pear" / "rules.py"
    rules.write_text(RULES.replace("first", "second"))
    terminal.until("second", 2)
    assert re.search(r"services/pear/rules\.py changed: pear api, pear worker, console start again", terminal.text)
    after = {name: before[name] + (name.startswith("pear") or name == "console") for name in before}
    until(lambda: starts(terminal) == after)
    assert len(finishes(terminal)) == finished + 3, "SIGTERM, and time to end"

    (root / "shared" / "library.py").write_text("changed = True\n")
    after = {name: number + 1 for name, number in after.items()}
    until(lambda: starts(terminal) == after)
    (root / "migrations" / "apple" / "0001.py").write_text("changed = True\n")
    terminal.until(
        "migrations/apple/0001.py changed: when it is finished, run .venv/bin/python -m services.apple migrate"
    )
    assert starts(terminal) == after


def test_a_syntax_error_is_shown_once_and_waits_for_its_mend(session: Session) -> None:
    terminal = session.terminal
    before = starts(terminal)["apple worker"]
    rules = session.root / "services" / "pear" / "rules.py"
    rules.write_text("SAID = (\n")
    terminal.until("pear worker has ended (exit 1): it starts again with the next change")
    terminal.until("pear api has ended (exit 1): it starts again with the next change")
    assert len(re.findall(r"pear worker +\| SyntaxError", terminal.text)) == 1
    rules.write_text(RULES.replace("first", "mended"))
    terminal.until("mended", 2)
    assert starts(terminal)["apple worker"] == before


def test_a_process_that_is_killed_is_shown_and_started_again(session: Session) -> None:
    terminal = session.terminal
    before = pids(terminal)["apple worker"]
    os.kill(before[-1], signal.SIGKILL)
    terminal.until("apple worker has ended (SIGKILL): it starts again\n")
    until(lambda: starts(terminal)["apple worker"] == len(before) + 1)


def test_a_second_session_is_refused(session: Session) -> None:
    second = session.begin(ready=False)
    assert second.exit_code() == 1
    assert second.text == f"`make dev` runs here already: process {session.terminal.process.pid}\n"


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (None, 130),
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.proof),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.proof),
    ],
)
def test_it_ends_in_order(begin: Begin, how: signal.Signals | None, code: int) -> None:
    """Also when Ctrl+C is typed."""
    terminal = begin()
    if how is None:
        terminal.type(CTRL_C)
    else:
        terminal.process.send_signal(how)
    assert terminal.exit_code() == code
    assert all_gone(terminal)
    assert "Traceback" not in terminal.text
    if how != signal.SIGHUP:  # then nothing is written any more
        *_, before, last = terminal.text.splitlines()
        assert (before, last) == ("the servers are down", "Stopped; everything that was started is gone")
        assert len(finishes(terminal)) == 3


def test_it_ends_with_its_terminal(begin: Begin) -> None:
    terminal = begin()
    terminal.hang_up()
    assert terminal.exit_code() == 129
    assert all_gone(terminal)


def test_nohup_keeps_its_promise_and_a_job_in_the_background_can_be_interrupted() -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        Ending().install()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_second_ctrl_c_ends_it_at_once(begin: Begin, tmp_path: Path) -> None:
    """Though a worker is deaf."""
    rules = tmp_path / "services" / "pear" / "rules.py"
    rules.write_text(RULES.replace("first", "deaf").replace("pass", "while kind == 'worker':\n        pass"))
    service = tmp_path / "services" / "pear" / "__main__.py"
    service.write_text(service.read_text().replace("    asked.set()", "    pass").replace("asks > 1", "False"))
    terminal = begin()
    terminal.type(CTRL_C)
    terminal.until("Ctrl+C once more ends at once")
    began = time.monotonic()
    terminal.type(CTRL_C)
    assert terminal.exit_code() == 130
    assert time.monotonic() - began < 10, "it has not waited for its grace period"
    until(lambda: all_gone(terminal))


def test_a_pipe_that_nobody_reads_any_more_ends_it_with_the_next_line(begin: Begin, tmp_path: Path) -> None:
    words = f"set -o pipefail; {sys.executable} -c '{SESSION}' --port {free_port()} | grep --max-count=1 pid"
    with subprocess.Popen(["bash", "-c", words], cwd=tmp_path, env=ENV, stderr=subprocess.PIPE) as shell:
        _, errors = shell.communicate(timeout=END_SECONDS)
    assert (shell.returncode, errors) == (141, b"")


def test_the_debugger_has_the_terminal_for_itself(begin: Begin, tmp_path: Path) -> None:
    rules = tmp_path / "services" / "pear" / "rules.py"
    wish = tmp_path / "wish"
    rules.write_text(STANDING)
    terminal = begin("--port", str(free_port()), "--service", "pear", "--debug")
    terminal.until("pid")
    wish.touch()
    terminal.until("(Pdb) ")
    rules.write_text(rules.read_text().replace("first", "second"))  # twice, and it is still asked to end once
    other = (tmp_path / ".servers" / "dev.log").read_text
    until(lambda: "pear api, pear worker, console start again" in other())
    rules.write_text(rules.read_text().replace("second", "third"))
    until(lambda: len(re.findall("pear worker, console start again", other())) == 2)
    terminal.type("answer += 1\n")
    terminal.until("(Pdb) ", 2)
    terminal.type("c\n")
    terminal.until("the answer is 42")
    terminal.until("finished what was begun")
    terminal.until("third")
    assert re.search(r"pear api +\| pid \d+ third", other())
    assert "pear api  " not in terminal.text.partition("in the foreground")[2], "others do not write here"

    wish.touch()
    terminal.until("(Pdb) ", 3)
    terminal.type(CTRL_C)
    assert terminal.exit_code() == 130, "though it stands"
    assert not [pid for pid in map(int, re.findall(r"pid (\d+)", terminal.text + other())) if psutil.pid_exists(pid)]
    assert "Traceback" not in terminal.text


@pytest.mark.proof
def test_ctrl_c_lets_the_worker_in_the_foreground_finish(begin: Begin, tmp_path: Path) -> None:
    """It has the signal from the terminal, also after a breakpoint: no second one comes from us."""
    (tmp_path / "services" / "pear" / "rules.py").write_text(STANDING)
    terminal = begin("--port", str(free_port()), "--service", "pear", "--debug")
    (tmp_path / "wish").touch()
    terminal.until("(Pdb) ")
    (worker,) = map(int, re.findall(r"^pid (\d+)", terminal.text, re.MULTILINE))
    assert os.getpgid(worker) == terminal.process.pid, "Ctrl+Z stops both"
    terminal.type("c\n")
    terminal.until("the answer is 41")
    terminal.type(CTRL_C)
    terminal.until("finished what was begun")
    assert terminal.exit_code() == 130
    assert "(Pdb)" not in terminal.text.partition("the answer is 41")[2]


@pytest.mark.parametrize(
    ("options", "terminal", "words"),
    [
        ("--debug", True, "DEBUG=1 needs a service: SERVICE="),
        ("--service pear", True, "SERVICE= is for DEBUG=1"),
        ("--service plum --debug", True, "SERVICE=plum: there is no such service, but apple, pear"),
        ("--service pear --debug", False, "DEBUG=1 needs a terminal"),
        ("--port 0", True, "0 is not a port"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: str, terminal: bool, words: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["develop", *options.split()])
    monkeypatch.setattr("dev.develop.session.service_names", lambda: list(SERVICES))
    monkeypatch.setattr(Ending, "install", lambda _: None)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: terminal)
    try:
        code: object = develop.main()
    except SystemExit as error:
        code = error.code
    assert code in {1, 2}
    assert words in capsys.readouterr().err
