"""Every command shows hostile text in a record, an event or a reason, and it does nothing to a terminal."""

import json
import shlex
from collections.abc import Iterator

import pytest

from dev.servers import Servers
from tests.integration.audits import produce
from tests.integration.tallies import Tallies

EVIL = "\x1b]0;owned\x07\x1b[31mred\r\n\u202e\u200b\x9b!"
LONE = b'{"x": "\\ud800", "y": "\\u0000\\u001b[2J"}'


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    """A service whose dead letters, outbox row, records and decision hold such text."""
    with Tallies(servers) as made:
        made.produce(
            LONE, EVIL.encode(), [("ce_id", EVIL.encode()), (EVIL, b"\xff\x00\x1b"), ("ce_type", EVIL.encode())]
        )
        made.produce(EVIL.encode(), b"\xff\x1b[2J", [(EVIL, EVIL.encode())])
        made.work()
        made.sql("INSERT INTO switch VALUES ('retry')")
        made.ask(1, key=EVIL, wish="retry")
        made.work()
        produce(made, {"ce_source": made.name, "ce_id": EVIL, "ce_type": EVIL, "ce_time": EVIL}, key=EVIL)
        reason = "jsonb_build_object('reason', %s::text)"
        made.sql(
            f"INSERT INTO exactly_once_decision (command, source, before, after) VALUES (%s, 'x', '{{}}', {reason})",
            EVIL,
            EVIL,
        )
        made.request(5, key=EVIL)
        yield made


LINES = (
    "dead-letters list",
    "dead-letters list --json",
    *(f"dead-letters show {n}{json}" for n in (1, 2) for json in ("", " --json")),
    "dead-letters redrive --all",
    "dead-letters dismiss 1 --reason {evil} --yes",
    "positions set-aside --target {source} --offset 2 --reason {evil} --yes",
    "positions set-aside --target {evil} --reason x",
    "positions skip --target {evil} --yes",
    "decisions list",
    "decisions list --json",
    "outbox show",
    "outbox show --json",
    "outbox show {event}",
    "outbox show {event} --json",
    "outbox show {evil}",
    "audit --all",
    "audit --json --all",
    "positions show",
    "positions show --json",
)


def test_no_command_lets_it_out(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> None:
    (event,) = tallies.sql("SELECT event_id FROM exactly_once_outbox WHERE event_type = 'Told'")
    told = ""
    for line in LINES:
        capsys.readouterr()
        words = line.format(evil=shlex.quote(EVIL), source=tallies.source, event=event)
        assert tallies.run_words(shlex.split(words)) in (0, 1), line
        printed = capsys.readouterr()
        for text in printed:
            assert all(part.isprintable() for part in text.split("\n")), (line, text)
        if "--json" in line:
            assert printed.out.isascii()
            json.loads(printed.out)
        told += printed.out
    assert r"\x1b[31mred" in told
    assert r"\u001b[31mred" in told
