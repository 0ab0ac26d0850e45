"""A small benchmark runs and says what it measured. Speed is not tested."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dev.bench import report
from dev.bench.peer_system import peer
from dev.bench.report import Figure
from dev.servers import running

ROOT = Path(__file__).parents[2]
SMALL = ("--events", "300", "--naive", "5", "--rows", "300", "--kills", "1", "--million", "20000")


def bench(*arguments: str) -> str:
    command = [sys.executable, "-m", "dev.bench", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=580)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Each run starts servers and workers of its own; beside other work on two cores that takes minutes.
@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("section", "figures"),
    [("events", 8), ("relay", 3), ("restart", 6), ("million", 16), ("parked", 3), ("scheduled", 2), ("traces", 4)],
)
def test_a_section_measures_what_it_promises(section: str, figures: int) -> None:
    answer: dict[str, Any] = json.loads(bench(section, "--json", *SMALL))
    assert "cores" in answer["machine"]["machine"]
    assert {figure["section"] for figure in answer["figures"]} == {section}
    assert len(answer["figures"]) == figures
    assert all(figure["value"] > 0 for figure in answer["figures"] if "imports" not in figure["what"])


def values(answer: dict[str, Any]) -> dict[str, float]:
    return {figure["what"]: figure["value"] for figure in answer["figures"]}


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_latency_is_measured_through_the_whole_system_and_told_where_it_goes() -> None:
    answer: dict[str, Any] = json.loads(
        bench("latency", "--json", "--rates", "5", "--seconds", "1", "--warm-seconds", "1")
    )
    found = values(answer)
    assert 0 < found["5 orders/s: POST to OrderConfirmed, p50"] <= found["5 orders/s: POST to OrderConfirmed, p99"]
    parts = [
        found[f"5 orders/s: CPU per order, {name}"] for name in ("API", "workers", "callers", "broker", "PostgreSQL")
    ]
    assert found["5 orders/s: CPU per order, everything"] == pytest.approx(sum(parts))
    assert all(part > 0 for part in parts)
    assert found["5 orders/s: of them events that took effect"] <= found["5 orders/s: records consumed in a cycle"]
    assert 0 < found["no orders: CPU of one worker"] < found["no orders: CPU of everything"]


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_the_peer_confirms_what_is_ordered_and_loses_nothing() -> None:
    with running(report=lambda _: None) as servers, peer(servers) as (customers, meter):
        meter.start()
        run = customers.order(10, 3.0)
        assert all(seconds > 0 for seconds in meter.stop().cpu.values())
        assert len(run.confirmed) == len(run.due) == 30
        with psycopg.connect(servers.postgres.dsn("peer_payment")) as connection:
            taken = connection.execute("SELECT count(*), count(DISTINCT order_id) FROM entry").fetchone()
    assert taken == (60, 30), "both sides of a posting for each order"


def test_an_unknown_section_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dev.bench", "speed"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no section speed; there are events" in done.stderr


FIGURES = [
    Figure("events", "one worker", 12_345.6, "events/s"),
    Figure("events", "worker / naive", 39.94, "times", at_least=40),
    Figure("million", "memory", 130.25, "MB", at_most=150),
]


def test_the_table_tells_what_is_reached(capsys: pytest.CaptureFixture[str]) -> None:
    report.write(FIGURES, {"date": "2026-01-01"}, as_json=False)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "date: 2026-01-01" in lines
    assert "events one worker 12,346 events/s" in lines
    assert "worker / naive 39.9 times >= 40 NO" in lines
    assert "million memory 130 MB <= 150 yes" in lines


def test_json_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    report.write(FIGURES, {"date": "2026-01-01"}, as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert answer["machine"] == {"date": "2026-01-01"}
    assert [figure["reached"] for figure in answer["figures"]] == [None, False, True]
    assert answer["figures"][0]["value"] == 12_345.6


def test_markdown_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    report.write(FIGURES, {}, as_json=False, markdown=True)
    rows = [line.strip() for line in capsys.readouterr().out.splitlines() if "|" in line]
    assert len(rows) == 2 + len(FIGURES)
    assert all(row.startswith("|") and row.endswith("|") for row in rows)
