"""A real Prometheus scrapes the whole system: every query of the dashboard has an answer, every alert can be evaluated,
and none fires while all works. `make alerts-test` brings Prometheus.
"""

import json
import math
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from dev import processes
from dev.servers import Servers
from dev.servers.places import HOST, free_port
from dev.system import BANK, Shape, System
from shared.postgres.slots import LOCK_CLASS
from shared.testing import until

OBSERVE = Path(__file__).parents[2] / "compose" / "observe"
PROMETHEUS = shutil.which("prometheus")
IGNORED = "exactly_once_events_ignored_total"
"""By states that are found only when it happens: while all works, there is none."""
EXPRESSIONS = [
    target["expr"].replace("$service", ".*")
    for panel in json.loads((OBSERVE / "dashboards/exactly-once.json").read_text())["panels"]
    for target in panel.get("targets", ())
    if IGNORED not in target["expr"]
]
ALERTS = re.findall(r"^ +- alert: (\w+)$", (OBSERVE / "alerts.yml").read_text(), re.MULTILINE)
STOP_SECONDS = 30.0

pytestmark = [
    pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is not installed; `make alerts-test` brings it"),
    pytest.mark.timeout(420),
]


class Prometheus:
    """A server that scrapes every two seconds."""

    def __init__(self, client: httpx.Client, processes: int) -> None:
        self.processes = processes
        self._client = client

    def get(self, what: str, **given: str) -> Any:
        """Return the data of an answer of its API; None while it starts."""
        try:
            answer = self._client.get(f"/api/v1/{what}", params=given)
        except httpx.TransportError:
            return None
        assert answer.status_code in (200, 503), answer.text
        return answer.json()["data"] if answer.status_code == 200 else None

    def values(self, expression: str) -> list[float]:
        """Return the numbers that a query finds now; NaN is none."""
        answer = self.get("query", query=expression) or {"result": ()}
        found = (float(one["value"][1]) for one in answer["result"])
        return [value for value in found if not math.isnan(value)]

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in (self.get("rules") or {}).get("groups", ()) for rule in group["rules"]]


@contextmanager
def prometheus(system: System, place: Path) -> Iterator[Prometheus]:
    """Let it scrape each process, under the labels that the one of docker compose gives them."""
    words = [(name, *name.split()[:2]) for name in system.supervisor.names if name != BANK]
    configuration = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"},
        "rule_files": [str(OBSERVE / "alerts.yml")],
        "scrape_configs": [
            {
                "job_name": "services",
                "static_configs": [
                    {
                        "targets": [system.metrics(name).split("/")[2]],
                        "labels": {"service": service, "process": process},
                    }
                    for name, service, process in words
                ],
            }
        ],
    }
    file, log, port = place / "prometheus.yml", place / "prometheus.log", free_port()
    file.write_text(json.dumps(configuration))
    command = [str(PROMETHEUS), f"--config.file={file}", f"--storage.tsdb.path={place / 'data'}"]
    with log.open("wb") as output:
        command += [f"--web.listen-address={HOST}:{port}", "--log.level=warn"]
        process = processes.start(command, output=output)
    try:
        with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=10.0, trust_env=False) as client:
            yield Prometheus(client, len(words))
    except BaseException as error:
        error.add_note(f"Prometheus says:\n{log.read_text()[-3_000:]}")
        raise
    finally:
        processes.end([process], STOP_SECONDS)


def order(system: System, client: httpx.Client) -> None:
    """Let a customer buy one thing, until the order is confirmed."""
    name = f"seen-{uuid.uuid4().hex[:8]}"

    def send(method: str, service: str, path: str, body: dict[str, object]) -> Any:
        answer = client.request(
            method, f"{system.url(service)}{path}", json=body, headers={"Idempotency-Key": uuid.uuid4().hex}
        )
        return answer.raise_for_status().json()

    send("PUT", "inventory", f"/stock/{name}", {"price": 100, "currency": "EUR"})
    send("POST", "inventory", f"/stock/{name}/receipts", {"quantity": 10})
    send("PUT", "payment", f"/accounts/{name}", {"currency": "EUR"})
    send("POST", "payment", f"/accounts/{name}/deposits", {"amount": 10_000, "currency": "EUR"})
    placed = send("POST", "order", "/orders", {"account": name, "lines": [{"sku": name, "quantity": 1}]})["id"]
    state = f"{system.url('order')}/orders/{placed}"
    until(lambda: client.get(state).raise_for_status().json()["state"] == "CONFIRMED", "it is confirmed")


def end_session(system: System, service: str) -> None:
    """End the database session in which a worker holds its slot."""
    with psycopg.connect(system.dsn(service), autocommit=True) as connection:
        held = "locktype = 'advisory' AND classid = %s AND CAST(objid AS bigint) < 1000 AND granted"
        in_this = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ended = connection.execute(
            f"SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE {held} AND {in_this}", [LOCK_CLASS]
        ).fetchall()
    assert ended == [(True,)]


def test_every_query_has_an_answer_and_every_rule_can_be_evaluated(servers: Servers, tmp_path: Path) -> None:
    with (
        System(servers, Shape(workers=1, callers=1)) as system,
        prometheus(system, tmp_path) as seen,
        httpx.Client(timeout=30.0, trust_env=False) as client,
    ):
        until(lambda: seen.values("sum(up)") == [float(seen.processes)], "it has scraped all processes")
        order(system, client)
        until(lambda: {rule["health"] for rule in seen.rules()} == {"ok"}, "every rule is evaluated, without an error")
        assert {rule["name"] for rule in seen.rules()} == set(ALERTS)
        assert seen.values("ALERTS{alertstate='firing'}") == []

        end_session(system, "inventory")  # a worker that recovers, which is a figure too

        def empty() -> list[str]:
            return [expression for expression in EXPRESSIONS if not seen.values(expression)]

        def answered() -> bool:
            order(system, client)
            return not empty()

        try:
            until(answered, "every query finds numbers")
        except AssertionError as error:
            error.add_note("Nothing is found by: " + "\n".join(empty()))
            raise
