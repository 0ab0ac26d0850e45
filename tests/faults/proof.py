"""The ledger of all storms that were ever published, and the report that is made from it.

docs/proof.jsonl is only ever added to. Each line names its protocol: a hash of the code that carries the guarantee,
without its comments. docs/proof.md sums up the lines of the present protocol, and says how many there are of earlier
ones.
"""

import ast
import hashlib
import json
import platform
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import confluent_kafka
import psutil
import psycopg

from dev.servers.jars import KAFKA
from dev.silence import quantile
from tests.faults.outcome import Outcome
from tests.faults.scenarios import SCENARIOS, Scenario

ROOT = Path(__file__).parents[2]
LEDGER = ROOT / "docs" / "proof.jsonl"
REPORT = ROOT / "docs" / "proof.md"
COLUMNS = 120
"""Columns of a line of prose in docs/."""
BEGIN, END = "<!-- figures: made from proof.jsonl by `make faults PUBLISH=1` -->\n", "<!-- end of figures -->"

PROTOCOL = (
    "events",
    "scheduling",
    "service",
    "session",
    "trace_context",
    *(f"declaration/{name}" for name in ("annotations", "batches", "routes", "rows", "signatures")),
    *(f"kafka/{name}" for name in ("access", "client", "consumer", "ended_transactions", "producer", "topics")),
    "kafka/undecodable",
    *(f"orm/{name}" for name in ("bulk", "documents", "flushing", "held")),
    *(
        f"postgres/{name}"
        for name in ("ahead", "attempts", "blame", "dead_letters", "deadline", "engine", "handlers", "inbox", "outbox")
    ),
    *(f"postgres/{name}" for name in ("parked", "positions", "recurring", "schedule", "slots", "stuck_records")),
    *(f"postgres/{name}" for name in ("transaction", "wakeup")),
    *(f"protocol/{name}" for name in ("attempts", "cycle", "intake", "parking", "ports", "verdicts")),
    *(f"worker/{name}" for name in ("backoff", "closing", "last_words", "main_loop", "minute", "recoveries")),
    *(
        f"worker/{name}"
        for name in ("reporting", "retries", "standby", "startup", "stopping", "stops", "turns", "waking", "watchdog")
    ),
    "worker/worker",
)
"""The modules of `shared` whose change voids earlier proofs."""


def protocol() -> str:
    """Return the hash of the protocol's code: of its syntax trees without docstrings, so that words may change."""
    digest = hashlib.sha256()
    for name in PROTOCOL:
        tree = ast.parse((ROOT / "shared" / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(body := getattr(node, "body", None), list):
                # A string that stands alone is for readers only.
                node.body = [  # type: ignore[attr-defined]
                    s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
                ]
        digest.update(dump(tree).encode())
    return digest.hexdigest()[:12]


def dump(node: object) -> str:
    """Write a syntax tree as Python 3.11's `ast.dump` does, on every Python.

    3.12 added `type_params` and, in some releases, an empty string at the end of an f-string's format; 3.13 leaves out
    what is empty.
    """
    if isinstance(node, list):
        return f"[{', '.join(map(dump, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.JoinedStr):
        node.values = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
    fields = [
        f"{name}={dump(value)}"
        for name, value in ast.iter_fields(node)
        # What is not there; but the value of a constant may be None.
        if (value is not None or (name == "value" and isinstance(node, ast.Constant | ast.MatchSingleton)))
        and not (name == "type_params" and not value)
    ]
    return f"{type(node).__name__}({', '.join(fields)})"


def note(outcome: Outcome) -> None:
    """Add an outcome to the ledger."""
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "protocol": protocol(),
        "kafka": KAFKA.rpartition(":")[2],
        "librdkafka": confluent_kafka.libversion()[0],
        "psycopg": psycopg.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB",
    }
    line = asdict(outcome)
    del line["log"]
    with LEDGER.open("a") as ledger:
        ledger.write(json.dumps({**facts, **line}) + "\n")


def write() -> None:
    """Write the figures anew into the report."""
    before, rest = REPORT.read_text().split(BEGIN)
    _, after = rest.split(END)
    REPORT.write_text(f"{before}{BEGIN}{figures(read())}\n{END}{after}")


def read() -> list[dict[str, Any]]:
    """Read the ledger."""
    return [json.loads(line) for line in LEDGER.read_text().splitlines()] if LEDGER.exists() else []


def figures(lines: Sequence[dict[str, Any]]) -> str:
    """Sum up the lines of the latest protocol."""
    if not lines:
        return "Nothing is published yet."
    present = [line for line in lines if line["protocol"] == lines[-1]["protocol"]]
    last, faults = present[-1], _sum(present)
    wrong = sum(bool(line["anomalies"]) for line in present)
    dates = dict.fromkeys(line["date"] for line in (present[0], last))
    earlier = len(lines) - len(present)
    return "\n".join(
        [
            textwrap.fill(
                f"**{faults['SIGKILL']:,} SIGKILLs and {faults['SIGSTOP']:,} freezes of workers, {_servers(faults):,} "
                "kills, freezes and restarts of servers, "
                f"{sum(line['events'] for line in present):,} events in {len(present):,} storms: {wrong} anomalies.**",
                COLUMNS,
            ),
            "",
            textwrap.fill(
                f"{' to '.join(dates)}; Kafka {last['kafka']}, librdkafka {last['librdkafka']}, Python "
                f"{last['python']}, {last['machine']}; protocol `{last['protocol']}`; {earlier:,} storms of earlier "
                "protocols are in the ledger and not counted here.",
                COLUMNS,
            ),
            "",
            "| scenario | what is done | what must hold | storms | events | faults | anomalies | p < "
            "| recovery p50 / p99 / max, s |",
            "|---|---|---|---|---|---|---|---|---|",
            *(_row(scenario, present) for scenario in SCENARIOS),
        ]
    )


def _sum(lines: Iterable[dict[str, Any]]) -> Counter[str]:
    return sum((Counter(line["faults"]) for line in lines), Counter())


def _servers(faults: Counter[str]) -> int:
    return sum(count for fault, count in faults.items() if fault.startswith(("PostgreSQL", "broker")))


def _row(scenario: Scenario, lines: Sequence[dict[str, Any]]) -> str:
    mine = [line for line in lines if line["scenario"] == scenario.name]
    storms, wrong = len(mine), sum(bool(line["anomalies"]) for line in mine)
    recoveries = [seconds for line in mine for seconds in line["recoveries"]]
    cells = (
        scenario.name,
        scenario.what,
        scenario.must_hold,
        f"{storms:,}",
        f"{sum(line['events'] for line in mine):,}",
        ", ".join(f"{count:,} {fault}" for fault, count in sorted(_sum(mine).items())),
        str(wrong),
        # An anomaly never seen in n storms is rarer than this, with a confidence of 95%.
        f"{1 - 0.05 ** (1 / storms):.3f}" if storms and not wrong else "-",
        " / ".join(f"{quantile(recoveries, share):.1f}" for share in (0.5, 0.99, 1.0)) if recoveries else "-",
    )
    return f"| {' | '.join(cells)} |"
