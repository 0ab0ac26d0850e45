"""The run of all checks ends within its bound with every check told, whatever one of them does."""

import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from dependency_injector import providers

from dev.servers.places import free_port
from shared import command
from shared.errors import CommandFailed, KafkaUnavailable, Misconfigured
from shared.operations.doctor import doctor, report
from shared.operations.doctor.checks import CHECKS, Check
from shared.operations.doctor.doctor import examine
from shared.operations.doctor.findings import CHARACTERS_MAX, Finding, fault, ok, unknown, warning
from shared.operations.doctor.report import WIDTH
from shared.settings import Settings, load
from tests.faults import trail

NOBODY: Any = SimpleNamespace()
PASSWORD = "between-you-and-me"


def told(*checks: Check, seconds: float = 20.0) -> dict[str, list[tuple[str, str]]]:
    """Return verdict and words of each check's findings."""
    found = examine(NOBODY, checks, seconds)
    return {check.name: [(f.verdict, f.seen) for f in found if f.check == check.name] for check in checks}


def says(*found: Finding) -> Any:
    return lambda _: iter(found)


def raises(error: Exception) -> Any:
    def ask(_: Any) -> Iterator[Finding]:
        yield ok("this much was seen")
        raise error

    return ask


def hangs(_: Any) -> Iterator[Finding]:
    yield ok("this much was seen")
    threading.Event().wait()


def test_what_needs_a_server_that_is_away_is_not_asked() -> None:
    asked = []

    def ask(_: Any) -> list[Finding]:
        asked.append("clock")
        return [ok("")]

    found = examine(
        NOBODY,
        (
            Check("db address", says(warning("slow", "wait")), 1),
            Check("db connection", says(fault("away", "start it")), 1, ("db address",)),
            Check("db schema", ask, 1, ("db connection",)),
            Check("db clock", ask, 1, ("db schema",)),
            Check("mq topics", ask, 1, ("db clock",)),
        ),
        20.0,
    )

    assert [(f.check, f.verdict) for f in found] == [
        ("db address", "warning"),
        ("db connection", "fault"),
        ("db schema", "unknown"),
        ("db clock", "unknown"),
        ("mq topics", "unknown"),
    ]
    assert {f.behind for f in found[2:]} == {"db connection"}, "the deepest cause is named"
    assert asked == []


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (Misconfigured("KAFKA_X: wrong"), "fault"),
        (KafkaUnavailable("no broker"), "unknown"),
        (CommandFailed("no"), "unknown"),
        (KafkaException(KafkaError(KafkaError._TRANSPORT)), "unknown"),
        (ZeroDivisionError("by zero"), "unknown"),
        (TimeoutError("of a socket"), "unknown"),
    ],
)
def test_a_check_that_fails_is_told_with_what_it_has_seen(error: Exception, verdict: str) -> None:
    found = told(Check("a b", raises(error), 5), Check("a c", says(ok("fine")), 5))

    assert [v for v, _ in found["a b"]] == ["ok", verdict]
    assert found["a c"] == [("ok", "fine")]


def test_a_check_that_hangs_ends_with_what_silence_means() -> None:
    found = told(Check("a b", hangs, 0.01), Check("c d", hangs, 0.01, late="fault"), Check("a e", says(ok("fine")), 5))

    assert [v for v, _ in found["a b"]] == ["ok", "unknown"]
    assert [v for v, _ in found["c d"]] == ["ok", "fault"]
    assert found["a e"] == [("ok", "fine")]


def test_all_of_it_ends_when_its_time_is_over() -> None:
    """The check itself had an hour."""
    checks = (Check("a b", hangs, 3_600), Check("a c", hangs, 3_600), Check("d e", hangs, 3_600, ("a c",)))
    found = told(*checks, seconds=0.2)

    assert [v for v, _ in found["a b"]] == ["ok", "unknown"], "what was seen is not lost"
    assert [v for v, _ in found["a c"]] == ["unknown"]
    assert [v for v, _ in found["d e"]] == ["unknown"]


def test_the_checks_of_two_servers_run_side_by_side() -> None:
    both = threading.Barrier(2)

    def meets(_: Any) -> list[Finding]:
        both.wait(20)
        return [ok("met")]

    assert told(Check("a b", meets, 20), Check("c d", meets, 20)) == {"a b": [("ok", "met")], "c d": [("ok", "met")]}


def test_the_table_of_checks_can_be_run() -> None:
    names = [check.name for check in CHECKS]

    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= WIDTH
    places = [name.split()[0] for name in names]
    assert sorted(set(places), key=places.index) == [p for n, p in enumerate(places) if places[n - 1 : n] != [p]]
    for number, check in enumerate(CHECKS):
        assert set(check.needs) <= set(names[:number]), f"{check.name} needs what comes later"
    assert doctor.SECONDS_MAX + doctor.HAND_OVER_SECONDS < 30


# ---- the command


@pytest.fixture
def down(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service whose servers are both away."""
    settings = Settings.model_validate(
        {
            "kafka_bootstrap_servers": f"127.0.0.1:{free_port()}",
            "database_url": f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port()}/{{service}}",
            "api_auth": "off",
        }
    )
    return trail.container(trail.make("down"), settings)


def findings(capsys: pytest.CaptureFixture[str]) -> Any:
    out = capsys.readouterr().out
    assert PASSWORD not in out
    return json.loads(out)


def test_each_server_that_is_down_is_one_fault(
    down: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGAPPNAME", "a line of the log would break the JSON")
    assert command.run(down, ["doctor", "--json"]) == 1

    told = findings(capsys)
    assert list(told) == ["service", "healthy", "seconds", "counts", "findings"]
    assert (told["service"], told["healthy"], told["counts"]["fault"]) == ("down", False, 2)
    assert {tuple(one) for one in told["findings"]} == {("check", "verdict", "seen", "mend", "see", "behind")}
    by_name = {one["check"]: one for one in told["findings"]}
    assert set(by_name) == {check.name for check in CHECKS}
    for place in ("postgres", "kafka"):
        assert by_name[f"{place} address"]["verdict"] == "fault"
        assert "connection refused" in by_name[f"{place} address"]["seen"]
        rest = [one for name, one in by_name.items() if name.startswith(place) and name != f"{place} address"]
        assert {(one["verdict"], one["behind"]) for one in rest} == {("unknown", f"{place} address")}
    assert all(one["mend"] for one in told["findings"] if one["verdict"] != "ok")


def test_for_people_the_worst_comes_once_more_at_the_end(down: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(down, ["doctor"]) == 1

    out = capsys.readouterr().out
    assert PASSWORD not in out
    lines, summary = out.split("\n\n")
    head, *worst = summary.splitlines()
    assert head.startswith("down: 2 faults, 1 warning, ")
    assert [line.split()[0] for line in worst] == ["fault", "->", "fault", "->", "warning", "unknown", "unknown"]
    for line in lines.splitlines():
        assert line.split()[0] in ("fault", "warning", "unknown", "ok", "->")
    assert "-> start PostgreSQL, or correct DATABASE_URL" in lines
    assert worst[1].strip().startswith("-> start PostgreSQL, or correct DATABASE_URL"), "a fault comes with its cure"
    assert worst[-2].startswith("unknown  not looked at: for what `postgres address` found: postgres connection, ")
    assert "postgres certificate, postgres safety" in worst[-2], "what is behind it is one line"


def test_a_fault_is_told_whole_and_what_is_less_in_short(capsys: pytest.CaptureFixture[str]) -> None:
    report.show("order", [fault("f" * 500, "mend it"), warning("w" * 500, "look at it")], 1.0)

    summary = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert [line.count("f" * 500) for line in summary[1:]] == [1, 0, 0]
    assert summary[2].strip() == "-> mend it"
    assert summary[3].endswith("w" * 160 + "...")


@pytest.mark.usefixtures("bare_environment")
def test_settings_that_cannot_be_read_are_told_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = trail.container(trail.make("wrong"), load())
    made.settings.override(providers.Callable(load))
    monkeypatch.setenv("PARTITIONS", "0")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "http://kafka:9092")

    assert command.run(made, ["doctor", "--json"]) == 1

    told = findings(capsys)
    assert told["counts"] == {"fault": 2, "warning": 0, "unknown": len(CHECKS) - 1, "ok": 0}
    faults = " ".join(one["seen"] for one in told["findings"] if one["verdict"] == "fault")
    assert "KAFKA_BOOTSTRAP_SERVERS" in faults
    assert "PARTITIONS" in faults


@pytest.mark.usefixtures("bare_environment")
def test_a_url_that_cannot_be_read_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = trail.container(trail.make("wrong"), load())
    made.settings.override(providers.Callable(load))
    monkeypatch.setenv("DATABASE_URL", f"mysql://me:{PASSWORD}@host/name")

    assert command.run(made, ["doctor", "--json"]) == 1
    told = findings(capsys)
    (only,) = [one for one in told["findings"] if one["verdict"] == "fault"]
    assert only["check"] == "settings"
    assert only["seen"].startswith("DATABASE_URL: ")


def test_nothing_of_others_reaches_the_terminal(
    down: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "\x1b]0;mine\x07\u202e" + "x" * 10_000
    monkeypatch.setattr(doctor, "CHECKS", (Check("a b", says(fault(evil, evil)), 5),))

    for words in (["doctor"], ["doctor", "--json"]):
        assert command.run(down, words) == 1
        out = capsys.readouterr().out
        assert all(line.isprintable() for line in out.splitlines())
        assert len(out) < 5 * CHARACTERS_MAX


def test_warnings_and_what_is_unknown_do_not_fail(down: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (Check("a b", says(warning("w", "m"), unknown("u", "m")), 5),))

    assert command.run(down, ["doctor"]) == 0
