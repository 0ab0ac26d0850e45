"""The system with one broker: it comes up, works, loses its parts, and stops."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dev.compose import ComposeSystem
from shared.testing import until
from tests.compose.conftest import PROJECT
from tests.compose.orders import order_and_see_it_confirmed

ROOT = Path(__file__).parents[2]
BACK_SECONDS = 180.0
DASHBOARD = json.loads((ROOT / "compose/observe/dashboards/exactly-once.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
# Words of PromQL, labels and variables of Grafana; whatever else is a name must be a metric.
NOT_METRICS = {"sum", "max", "rate", "histogram_quantile"}
OF_PROMETHEUS = {"up"}


@pytest.fixture(scope="module")
def system() -> Iterator[ComposeSystem]:
    """All tests of this module share it and leave it running."""
    with ComposeSystem(PROJECT) as started:
        yield started


def metrics(system: ComposeSystem, name: str) -> str:
    """Fetch a container's /metrics from inside it: workers have no port on this machine."""
    script = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:8000/metrics').read().decode())"
    return system.docker.docker("exec", system.docker.container(name), "python", "-c", script)


def shown(text: str) -> set[str]:
    """Return Prometheus's names of a process's metrics, including those not counted yet."""
    names: set[str] = set()
    for family in text_string_to_metric_families(text):
        kinds = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        names |= {f"{family.name}{suffix}" for suffix in kinds}
    return names


def test_it_comes_up_and_an_order_is_confirmed(system: ComposeSystem) -> None:
    assert all(map(system.is_ready, (*system.supervisor.names, "kafka", "postgres")))

    order_and_see_it_confirmed(system)


def test_it_is_brought_up_again_with_everything_in_place(system: ComposeSystem) -> None:
    """Databases, topics, migrations: every job runs a second time."""
    system.docker.compose("up", "--wait", seconds=BACK_SECONDS * 2)

    order_and_see_it_confirmed(system)


@pytest.mark.parametrize("name", ["controller", "kafka", "postgres"])
def test_what_is_kept_is_kept_under_a_name(system: ComposeSystem, name: str) -> None:
    """`down` leaves volumes; one without a name would never be found."""
    kept = [mount["Name"] for mount in system.docker.inspect(name)["Mounts"] if mount["Type"] == "volume"]
    assert kept
    assert all(volume.startswith(f"{PROJECT}_") for volume in kept)


def test_a_service_sees_its_own_database_and_no_other(system: ComposeSystem) -> None:
    other = system.dsn("order").rpartition("/")[0] + "/payment"

    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(other)


def test_nobody_calls_without_a_token(system: ComposeSystem) -> None:
    assert httpx.get(f"{system.url('order')}/orders").status_code == 401
    assert httpx.get(f"{system.url('order')}/orders", headers=system.headers).status_code == 200


def test_the_console_shows_all_services_to_those_who_have_the_token(system: ComposeSystem) -> None:
    token = system.headers["Authorization"].removeprefix("Bearer ")
    with httpx.Client(base_url=system.console, follow_redirects=True, timeout=30, trust_env=False) as browser:
        assert "Log in" in browser.get("/").text
        page = browser.post("/login", data={"token": token, "next": "/"}).text
        assert [name for name in system.services if f'<h2 id="h-{name}">' not in page] == []
        until(lambda: "2 workers" in browser.get("/").text, "the workers are seen")


@pytest.mark.parametrize("name", ["inventory worker 1", "order api", "kafka", "postgres"])
def test_what_dies_is_started_again_and_orders_go_on(system: ComposeSystem, name: str) -> None:
    before = system.docker.inspect(name)["State"]["StartedAt"]

    assert system.docker.kill(name)

    until(
        lambda: system.docker.inspect(name)["State"]["StartedAt"] != before and system.is_ready(name),
        f"{name} is back",
        BACK_SECONDS,
    )
    until(lambda: all(map(system.is_ready, system.supervisor.names)), "all are ready", BACK_SECONDS)
    order_and_see_it_confirmed(system)


def test_workers_are_added_and_share_the_lanes(system: ComposeSystem) -> None:
    system.docker.compose("up", "--wait", "--scale", "inventory-worker=3", "--no-recreate", seconds=BACK_SECONDS * 2)

    workers = [f"inventory worker {number}" for number in (1, 2, 3)]

    def lanes() -> list[float]:
        found = [
            re.search(r"^exactly_once_lanes_owned (\S+)$", metrics(system, name), re.MULTILINE) for name in workers
        ]
        return [float(match[1]) for match in found if match]

    until(lambda: sum(lanes()) == 4 and min(lanes()) >= 1, "four lanes at three workers", BACK_SECONDS)
    order_and_see_it_confirmed(system)
    system.docker.compose("up", "--wait", "--no-recreate", seconds=BACK_SECONDS * 2)


def test_the_dashboard_asks_for_metrics_that_there_are(system: ComposeSystem) -> None:
    asked = {
        name
        for query in QUERIES
        for name in re.findall(r"[a-z_]+", re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)", "", query))
        if name not in NOT_METRICS | OF_PROMETHEUS
    }
    there = shown(metrics(system, "order worker 1")) | shown(metrics(system, "order api"))

    assert asked
    assert asked - there == set()


@pytest.mark.parametrize("name", ["payment worker 1", "payment api"])
def test_who_is_asked_to_stop_finishes_and_ends_well(system: ComposeSystem, name: str) -> None:
    container = system.docker.container(name)

    system.docker.docker("stop", container)

    state = system.docker.inspect(name)["State"]
    assert (state["Running"], state["ExitCode"]) == (False, 0)
    system.docker.docker("start", container)
    until(lambda: system.is_ready(name), f"{name} is back", BACK_SECONDS)
