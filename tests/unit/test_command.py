"""The command line: what messages tell an operator to type can be typed, and every command leads somewhere."""

import argparse
import ast
import inspect
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared import command
from shared.container import resolve
from shared.errors import CommandFailed, Stop
from shared.operations import maintenance
from shared.operations.maintenance import Context
from shared.protocol.ports import Claim, Committed, Input, Position
from shared.protocol.verdicts import compare_input, compare_lane, compare_reach

ROOT = Path(__file__).parents[2]
TYPED = re.compile(r"`python -m services\.\S+ ([^`]+)`")
SOURCE = Input("order.events", 0)


def text_of(node: ast.AST) -> str | None:
    """Return a node's string, with `1` for what is filled in: a service, lane, id or topic may be called so."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_filled_in(part) for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _filled_in(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    called = part.value.func if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Call) else None
    return "python -m services.1" if isinstance(called, ast.Name) and called.id == "program" else "1"


def texts(node: ast.AST) -> Iterator[str]:
    """Return every whole string below a node."""
    text = text_of(node)
    if text is not None:
        yield text
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / "shared").rglob("*.py")):
        yield path.name, ast.parse(path.read_text())


def named() -> Iterator[tuple[str, str]]:
    """Return the commands in the library's messages, and their places; those of `Context.command` have no service."""
    for name, tree in modules():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "command":
                yield name, text_of(call.args[0]) or ""
        for text in texts(tree):
            for line in TYPED.findall(text):
                yield name, line


# Their commands are put together elsewhere, and looked at below.
PUT_TOGETHER = {("maintenance.py", "1"), ("case.py", "1"), ("command.py", "<command>")}


@pytest.mark.parametrize(("where", "line"), sorted(set(named()) - PUT_TOGETHER))
def test_what_a_message_names_can_be_typed(where: str, line: str) -> None:
    command.parser("order").parse_args(shlex.split(line.replace("positions 1 ", "positions adopt ")))


@pytest.mark.parametrize(
    "line", ["schedule show \udcff", "calls list --key \udcff", "replay switch --into a --table \udcff --reason b"]
)
def test_a_word_that_is_no_text_is_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.parse(command.parser("order"), line.split())
    assert ended.value.code == 2
    assert "is not UTF-8" in capsys.readouterr().err


def test_a_key_that_is_parked_may_be_any_bytes() -> None:
    line = "parked show --target order.events[0] --key \udcff"
    assert command.parse(command.parser("order"), line.split()).key == "\udcff"


@pytest.mark.parametrize("line", ["replay switch --into a --table b", "schedule cancel a", "schedule run-now a"])
def test_a_reason_says_something(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.parse(command.parser("order"), [*line.split(), "--reason", " "])
    assert "--reason: it is empty: say why" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "inputs pause a",
        "inputs resume a",
        "schedule cancel a",
        "dead-letters dismiss 1",
        "dead-letters edit 1 --value a",
        "parked give-up --target a --key b",
        "calls give-up 1",
        "replay switch --into a --table b",
    ],
)
def test_a_reason_has_a_limit(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.parse(command.parser("order"), [*line.split(), "--reason", "x" * 2_000]).reason == "x" * 2_000
    with pytest.raises(SystemExit):
        command.parse(command.parser("order"), [*line.split(), "--reason", "x" * 2_001])
    assert "--reason: it has more than 2,000 characters" in capsys.readouterr().err


def test_there_are_such_messages() -> None:
    files = {where for where, _ in named()}
    assert files >= {
        "cycle.py",
        "reporting.py",
        "startup.py",
        "migrations.py",
        "verdicts.py",
        "lanes.py",
        "visible.py",
    }


def test_no_message_names_a_command_in_another_way() -> None:
    for name, tree in modules():
        for text in texts(tree):
            assert "python -m services." not in TYPED.sub("", text) or name in ("command.py", "program.py"), (
                name,
                text,
            )


WRITTEN = re.compile(
    r"`((?:positions|inputs|dead-letters|outbox|lanes|decisions|calls|replay) [^`]+|topics|migrate|doctor)`"
)


@pytest.mark.parametrize("line", sorted(set(WRITTEN.findall((ROOT / "docs" / "operating.md").read_text()))))
def test_what_the_page_names_can_be_typed(line: str) -> None:
    for placeholder, value in {"EVENT_ID": "x", "OFFSET": "7", "ID": "1", "S": "lane-0", "WHERE": "beginning"}.items():
        line = re.sub(rf"\b{placeholder}\b", value, line)
    command.parser("order").parse_args(shlex.split(line))


@pytest.mark.parametrize(
    ("compare", "choices"),
    [
        (lambda: compare_input("order", SOURCE, Committed(7, ""), None), ["rewind", "adopt", "skip"]),
        (lambda: compare_input("order", SOURCE, Committed(7, ""), Position(5, 0)), ["rewind", "skip"]),
        (lambda: compare_reach("order", SOURCE, 5, 7, 9), ["skip"]),
        (lambda: compare_reach("order", SOURCE, 10, 7, 9), ["rewind"]),
        (
            lambda: compare_lane("order", 3, Committed(7, "x"), None, published_read_last=True),
            ["adopt", "rewind", "skip"],
        ),
        (
            lambda: compare_lane("order", 3, None, Claim(7, "x", 1), published_read_last=True),
            ["adopt", "rewind", "skip"],
        ),
        (
            lambda: compare_lane("order", 3, Committed(7, "y"), Claim(7, "x", 1), published_read_last=True),
            ["adopt", "rewind", "skip"],
        ),
        (
            lambda: compare_lane("order", 3, Committed(5, "y"), Claim(7, "x", 1), published_read_last=True),
            ["adopt", "rewind", "skip"],
        ),
    ],
)
def test_a_comparison_names_the_commands_that_decide(compare: Callable[[], object], choices: list[str]) -> None:
    with pytest.raises(Stop) as stopped:
        compare()

    parsed = [command.parser("order").parse_args(shlex.split(line)) for line in TYPED.findall(str(stopped.value))]

    assert [arguments.choice for arguments in parsed] == choices
    assert {tuple(arguments.sources) for arguments in parsed} <= {("order.events[0]",), ("lane-3",)}


def leaves(parser: argparse.ArgumentParser, words: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Return every command with its own parser."""
    subparsers = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not subparsers:
        yield words.strip(), parser
    for action in subparsers:
        for name, child in action.choices.items():
            yield from leaves(child, f"{words} {name}")


COMMANDS = dict(leaves(command.parser("order")))


def test_the_commands() -> None:
    assert set(COMMANDS) == {
        *("api", "worker", "caller", "console", "migrate", "topics", "token", "doctor"),
        *("positions show", "positions adopt", "positions rewind", "positions skip", "positions set-aside"),
        *("dead-letters list", "dead-letters show", "dead-letters redrive", "dead-letters dismiss"),
        *("inputs list", "inputs pause", "inputs resume"),
        "dead-letters edit",
        *("parked list", "parked show", "parked retry-now", "parked give-up"),
        *("outbox show", "outbox set-aside"),
        *("schedule list", "schedule show", "schedule cancel", "schedule run-now"),
        *("lanes drain", "lanes resize"),
        *("replay run", "replay switch"),
        *("calls list", "calls show", "calls retry-now", "calls give-up"),
        "audit",
        "decisions list",
        "story",
    }


@pytest.mark.parametrize("words", sorted(words for words, made in COMMANDS.items() if made.get_default("operator")))
def test_a_command_gives_its_target_all_that_it_needs(words: str) -> None:
    made = COMMANDS[words]
    taken = inspect.signature(resolve(made.get_default("target"))).parameters
    given = {action.dest for action in made._actions if action.dest not in ("help", "by")}
    given |= set(made.get_default("given"))

    needed = {name for name, parameter in taken.items() if parameter.default is parameter.empty}
    assert needed <= given | {"context"} <= set(taken)


def test_a_command_in_a_message_is_what_the_context_makes_of_it() -> None:
    made = Context.command(  # only the service's name is looked at
        Context(None, type("Named", (), {"name": "order"})(), None, None),  # type: ignore[arg-type]
        "lanes resize",
    )

    assert TYPED.findall(made) == ["lanes resize"]


@pytest.mark.parametrize(
    "line",
    [
        "positions adopt",
        "positions adopt --target",
        "positions rewind --target lane-0 --to end",
        "dead-letters redrive",
        "dead-letters redrive 0",
        "dead-letters redrive 1 --all",
        "dead-letters show x",
        "dead-letters list --all --redriven",
        "outbox set-aside",
        "schedule cancel name",
        "lanes",
        "undo",
    ],
)
def test_wrong_words_end_with_two(line: str) -> None:
    with pytest.raises(SystemExit) as ended:
        command.parser("order").parse_args(line.split())
    assert ended.value.code == 2


def test_nobody_answers_is_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(CommandFailed, match="--yes"):
        maintenance.confirm("sure?", yes=False)
    maintenance.confirm("sure?", yes=True)


LEAVING = """
import atexit, sys, threading, time
from shared import command

class Standing:
    def __del__(self):
        print("taken down")

def work():
    time.sleep(0.1)
    print("worked")

standing = Standing()
sys.stdout.reconfigure(line_buffering=False)
atexit.register(print, "registered")
threading.Thread(target=work).start()
threading.Thread(target=threading.Event().wait, daemon=True).start()
command.leave(3)
"""


def test_a_process_that_leaves_does_what_is_left_to_do_and_python_stands_until_it_has_ended() -> None:
    """A daemon thread that enters Python while it is taken down ends the process with SIGSEGV."""
    done = subprocess.run((sys.executable, "-c", LEAVING), capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.split("\n"), done.stderr) == (3, ["worked", "registered", ""], "")
