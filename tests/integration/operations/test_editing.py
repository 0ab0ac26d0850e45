"""The value of a dead letter is corrected: the edit is a decision, the original stays, and a redrive handles the newest
edit once, whatever happens around it.
"""

import getpass
import io
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dev.servers import Servers
from shared.errors import CommandFailed
from shared.operations import editing, maintenance, redrive
from shared.operations.maintenance import Context
from shared.postgres.handlers import Handlers
from tests.faults import trail
from tests.integration.tallies import Tallies
from tests.integration.tally_topics import headers


@pytest.fixture
def tallies(servers: Servers) -> Iterator[Tallies]:
    """A service with two dead letters: a handler will never take the first, and the second is no event of its type."""
    with Tallies(servers) as made:
        value = b'{"trail": "k", "number": 1, "wish": "reject", "amount": 12345678901234567890.5}'
        made.produce(value, event_headers=headers("asked-1"))
        made.produce(b'{"trail": "k", "number": ', event_headers=headers("asked-2"))
        made.work()
        assert errors(made) == ["Reject", "Malformed"]
        yield made


def errors(tallies: Tallies) -> list[str]:
    return tallies.sql("SELECT error FROM exactly_once_dead_letter WHERE redriven_at IS NULL ORDER BY id")


def values(tallies: Tallies) -> list[bytes]:
    return [bytes(value) for value in tallies.sql("SELECT value FROM exactly_once_dead_letter ORDER BY id")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "value"


def put(file: Path, **changed: Any) -> str:
    file.write_bytes(json.dumps({"trail": "k", "number": 1, "wish": "", **changed}, indent=4).encode())
    return str(file)


def edit(tallies: Tallies, number: int, file: object, *more: str) -> int:
    return tallies.run_words(
        ["dead-letters", "edit", str(number), "--value", str(file), "--reason", "a typo", "--yes", *more]
    )


@pytest.mark.parametrize(
    ("key", "event_id", "kept"),
    [
        (b"a\0b", "asked-3", {"key": r"a\x00b", "event_id": "asked-3"}),
        (b"k", "asked\0003", {"key": "k", "event_id": r"asked\x003"}),
        (b"\xff" * 3_000, "e" * 3_000, {"key": r"\xff" * 2_000, "event_id": "e" * 2_000}),
    ],
)
def test_the_decision_keeps_any_key_and_id(
    tallies: Tallies, file: Path, key: bytes, event_id: str, kept: dict[str, str]
) -> None:
    tallies.produce(b"{", key, event_headers=headers(event_id))
    tallies.work()
    assert edit(tallies, 3, put(file), "--force") == 0
    (decision,) = tallies.decisions()
    assert {name: decision["before"][name] for name in kept} == kept


def test_it_is_handled_as_it_was_edited_and_the_original_stays(
    tallies: Tallies, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = values(tallies)
    assert edit(tallies, 1, put(file)) == 0
    out = capsys.readouterr().out
    assert '-   "wish": "reject"' in out
    assert '-   "amount": 12345678901234567890.5' in out, "no number was rounded on its way"
    assert '+   "wish": ""' in out
    assert "dead letter 1 is edited by decision 1" in out
    assert tallies.effects() == []

    assert tallies.run("dead-letters redrive 1") == 0
    assert "1: re-driven: as edited by decision 1" in capsys.readouterr().out
    assert tallies.run("dead-letters redrive 1") == 0
    assert "1: was re-driven before" in capsys.readouterr().out
    tallies.work()
    assert tallies.effects() == [1]
    assert tallies.consumed() == [(1, f"{tallies.name}:{tallies.source[:-3]}-0.0.0.Told.0")], "the ids are the record's"
    assert values(tallies) == before
    decision, redriven = tallies.decisions()
    assert (decision["command"], decision["source"]) == ("dead-letters edit", "dead letter 1")
    assert (redriven["command"], redriven["before"]) == ("dead-letters redrive", {"ids": [1]})
    assert {one["after"]["by"] for one in (decision, redriven)} == {getpass.getuser()}
    assert decision["before"]["event_id"] == "asked-1"
    assert '"wish": "reject"' in decision["before"]["value"]
    assert decision["after"]["reason"] == "a typo"
    assert decision["after"]["value"] == '{"trail":"k","number":1,"wish":""}'


def test_what_still_fails_stays_with_its_new_error_and_the_edited_value(
    tallies: Tallies, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(tallies, 2, put(file, number=2, wish="defect")) == 0
    assert tallies.run("dead-letters redrive 2") == 1
    assert errors(tallies) == ["Reject", "Unlucky"]
    capsys.readouterr()
    assert tallies.run("dead-letters show 2") == 0
    shown = capsys.readouterr().out
    assert 'edited_value {"trail": "k", "number": 2, "wish": "defect"}' in shown
    assert 'value        {"trail": "k", "number": ' in shown

    assert tallies.run("dead-letters show 2 --value") == 0
    file.write_text(capsys.readouterr().out.replace("defect", ""))
    assert edit(tallies, 2, file) == 0
    assert tallies.run("dead-letters redrive --all") == 1, "the other one was not edited"
    assert tallies.effects() == [2]
    edits = [decision for decision in tallies.decisions() if decision["command"] == "dead-letters edit"]
    assert [decision["before"]["value"] for decision in edits] == [
        '{"trail": "k", "number": ',
        '{"trail":"k","number":2,"wish":"defect"}',
    ]


def test_what_took_effect_meanwhile_does_not_again_however_it_was_edited(tallies: Tallies, file: Path) -> None:
    assert edit(tallies, 2, put(file, number=2)) == 0
    tallies.produce(b'{"trail": "k", "number": 22}', event_headers=headers("asked-2"))
    tallies.work()
    assert tallies.run("dead-letters redrive 2") == 0
    tallies.work()
    assert tallies.effects() == [22]


def test_however_many_redrive_it_takes_effect_once(tallies: Tallies, file: Path) -> None:
    assert edit(tallies, 1, put(file)) == 0
    built = trail.container(tallies.kit, tallies.settings)
    context = Context(tallies.settings, tallies.service, built.engine(), built.outbox())
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: redrive.one(context, Handlers(tallies.service), 1), range(4)))
    built.engine().dispose()
    assert all(result.good for result in results)
    tallies.work()
    assert (tallies.effects(), tallies.numbers()) == ([1], {1: 1})


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"{}", "Asked cannot be read: Object missing required field `trail`"),
        (b'{"trail": "k"', "Asked cannot be read: Input data was truncated"),
        (b'{"trail": "other", "number": 1}', "the event would be about 'other', and the key of its record is 'k'"),
    ],
)
def test_what_could_not_be_handled_is_refused_unless_forced(
    tallies: Tallies, file: Path, capsys: pytest.CaptureFixture[str], value: bytes, told: str
) -> None:
    file.write_bytes(value)
    assert edit(tallies, 1, file) == 1
    refused = capsys.readouterr().err
    assert told in refused
    assert "--force keeps it nevertheless" in refused
    assert tallies.decisions() == []

    assert edit(tallies, 1, file, "--force") == 0
    assert told in tallies.decisions()[0]["after"]["unreadable"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"\xff\xfe{}", "is not UTF-8"),
        (b"{}\x00", "a NUL character"),
        (b" " * 900_001, "more than EVENT_BYTES_MAX, 900,000 bytes"),
        (None, "No such file or directory"),
    ],
)
def test_what_cannot_be_kept_is_refused_also_when_forced(
    tallies: Tallies, file: Path, capsys: pytest.CaptureFixture[str], value: bytes | None, told: str
) -> None:
    if value is not None:
        file.write_bytes(value)
    assert edit(tallies, 1, file, "--force") == 1
    assert told in capsys.readouterr().err
    assert tallies.decisions() == []


def test_what_does_not_wait_or_does_not_change_is_refused(
    tallies: Tallies, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_bytes(values(tallies)[0].replace(b" ", b"\n"))
    assert edit(tallies, 1, file) == 1
    assert "there is nothing to change" in capsys.readouterr().err

    assert tallies.run_words(["dead-letters", "edit", "1", "--value", put(file), "--reason", "why"]) == 1
    assert "add --yes" in capsys.readouterr().err
    for number, made, told in (
        (99, "SELECT", "there is no dead letter 99"),
        (1, "UPDATE exactly_once_dead_letter SET dismissed_at = now(), dismissed_by = 5 WHERE id = 1", "decision 5"),
        (2, "UPDATE exactly_once_dead_letter SET redriven_at = now() WHERE id = 2", "dead letter 2 was re-driven at"),
    ):
        tallies.sql(made)
        assert edit(tallies, number, put(file)) == 1
        assert told in capsys.readouterr().err
    assert tallies.decisions() == []

    tallies.sql("UPDATE exactly_once_dead_letter SET dismissed_at = NULL, dismissed_by = NULL")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    assert edit(tallies, 1, "-") == 0
    assert len(tallies.decisions()) == 1


def test_two_who_edit_the_same_one_are_told_apart(tallies: Tallies) -> None:
    built = trail.container(tallies.kit, tallies.settings)
    context = Context(tallies.settings, tallies.service, built.engine(), built.outbox())
    said: list[str] = []

    def keep(number: int) -> None:
        value = json.dumps({"trail": "k", "number": number}).encode()
        try:
            with maintenance.deciding("ada"):
                editing.keep(context, 1, value, reason="mine", force=False, base=0)
        except CommandFailed as error:
            said.append(str(error))

    threads = [threading.Thread(target=keep, args=(n,)) for n in (7, 8, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    built.engine().dispose()

    (decision,) = tallies.decisions()
    assert decision["after"]["by"] == "ada"
    assert said == [f"dead letter 1 was edited meanwhile, by decision {decision['id']} of ada: look at it again"] * 2
    assert tallies.run("dead-letters redrive 1") == 0
    assert tallies.effects() == [json.loads(decision["after"]["value"])["number"]]


def test_the_list_of_decisions_is_short_however_large_an_edit_is(
    tallies: Tallies, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(tallies, 1, put(file, padding="x" * 800_000)) == 0
    for line in ("decisions list", "decisions list --json", f"story asked-1 --records {1}"):
        capsys.readouterr()
        tallies.run(line)
        assert len(capsys.readouterr().out) < 20_000, line
