"""docker-compose.yml, as docker compose understands it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dev.docker import Docker
from dev.servers import ServerError, makes_calls, service_names
from shared.settings import Settings
from tests.compose.conftest import GIVEN, PROJECT

ROOT = Path(__file__).parents[2]
PROFILES = ["single", "cluster", "single ui", "single observe", "cluster ui observe"]
ONCE = ("brokers", "database", "migrations", "topics")
OUR_PROCESSES = {
    service: [f"{service}-{process}" for process in ("api", "worker", *["caller"] * makes_calls(service))]
    for service in service_names()
}
"""The containers of each service that run until stopped."""
OURS = [name for names in OUR_PROCESSES.values() for name in names]


def config(docker: Docker, profiles: str) -> dict[str, Any]:
    """The whole configuration, with all variables filled in."""
    chosen = [word for profile in profiles.split() for word in ("--profile", profile)]
    read: dict[str, Any] = json.loads(docker.compose(*chosen, "config", "--format", "json"))
    return read


@pytest.fixture(scope="module")
def everything(docker: Docker) -> dict[str, Any]:
    """Every service of every profile."""
    services: dict[str, Any] = config(docker, "*")["services"]
    return services


def lasting(services: dict[str, Any]) -> dict[str, Any]:
    """The services that run until stopped."""
    return {name: given for name, given in services.items() if not name.endswith(ONCE)}


def seconds(duration: str) -> float:
    """Read `1m0s`."""
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert found
    return 60 * int(found[1] or 0) + int(found[2] or 0)


@pytest.mark.parametrize("profiles", PROFILES)
def test_every_profile_is_valid(docker: Docker, profiles: str) -> None:
    brokers = [name for name in config(docker, profiles)["services"] if re.fullmatch(r"kafka(-\d)?", name)]

    assert brokers == (["kafka"] if "single" in profiles else ["kafka-1", "kafka-2", "kafka-3"])


def test_a_system_without_brokers_is_refused_before_anything_starts(docker: Docker) -> None:
    with pytest.raises(ServerError, match="brokers"):
        config(docker, "ui")


@pytest.mark.parametrize("name", GIVEN)
def test_no_password_has_a_default(name: str) -> None:
    with pytest.raises(ServerError, match=f"{name}.*make up"):
        config(Docker(PROJECT, GIVEN | {name: ""}, []), "single")


def test_who_runs_does_not_know_the_password_of_who_migrates(everything: dict[str, Any]) -> None:
    services = config(Docker(PROJECT, GIVEN | {"MIGRATION_PASSWORD": "of-the-owner"}, []), "*")["services"]

    knowing = {name for name, given in services.items() if "of-the-owner" in json.dumps(given)}

    assert knowing == {name for name in everything if name.endswith(("-database", "-migrations"))}


def test_every_port_is_open_to_this_machine_only(everything: dict[str, Any]) -> None:
    addresses = {port["host_ip"] for given in everything.values() for port in given.get("ports", [])}

    assert addresses == {"127.0.0.1"}


def test_every_image_but_our_own_names_its_version(everything: dict[str, Any]) -> None:
    images = {given["image"] for given in everything.values()}

    assert [image for image in images if not re.search(r":v?\d", image)] == ["exactly-once"]


def test_whatever_runs_for_long_is_limited_and_comes_back(everything: dict[str, Any]) -> None:
    for name, given in lasting(everything).items():
        assert given["restart"] == "always", name
        limits = given["deploy"]["resources"]["limits"]
        assert limits["memory"], name
        assert limits["pids"], name
        assert given["logging"]["options"]["max-size"], name


def test_our_processes_may_do_no_more_than_they_need(everything: dict[str, Any]) -> None:
    for name in (*OURS, "console"):
        given = everything[name]
        assert given["user"] == "10001", name
        assert given["read_only"] is True, name
        assert given["cap_drop"] == ["ALL"], name
        assert given["security_opt"] == ["no-new-privileges:true"], name


def test_who_stops_has_the_time_to_finish_and_to_close(everything: dict[str, Any]) -> None:
    defaults = Settings.model_construct()  # nothing in compose sets them otherwise
    budget = max(2 * defaults.shutdown_grace_seconds, 1.5 * defaults.transaction_timeout_ms / 1_000)

    for name in OURS:
        assert not {"SHUTDOWN_GRACE_SECONDS", "TRANSACTION_TIMEOUT_MS"} & set(everything[name]["environment"]), name
        assert seconds(everything[name]["stop_grace_period"]) > budget, name


def test_the_console_shows_all_services_to_those_who_have_the_token(everything: dict[str, Any]) -> None:
    environment = everything["console"]["environment"]

    assert "_app:of-this-test@postgres:5432/{service}" in environment["DATABASE_URL"], "one console for all"
    assert environment["API_TOKENS"].startswith("local:console:read,")
    assert environment["API_TOKENS"].endswith(":of-this-test")
    assert "API_AUTH" not in environment
    assert [port["target"] for port in everything["console"]["ports"]] == [int(environment["CONSOLE_PORT"])]


@pytest.mark.parametrize(("given", "exporter"), [({}, "none"), ({"TRACES": "otlp"}, "otlp")])
def test_every_process_sends_its_spans_to_jaeger_where_that_runs(given: dict[str, str], exporter: str) -> None:
    services = config(Docker(PROJECT, GIVEN | given, []), "*")["services"]
    receiver = (ROOT / "compose/observe/jaeger.yml").read_text()

    for name in OURS:
        environment = services[name]["environment"]
        assert environment["OTEL_TRACES_EXPORTER"] == exporter
        assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://jaeger:4318"
    assert 'http: {endpoint: "0.0.0.0:4318"}' in receiver
    assert services["jaeger"]["profiles"] == ["observe"]


def test_a_broker_that_restarts_looks_for_transactions_late_enough(everything: dict[str, Any]) -> None:
    names = {variable for name, given in everything.items() if "kafka" in name for variable in given["environment"]}

    assert not [variable for variable in names if "CLEANUP_INTERVAL" in variable]


def test_a_broker_alone_has_its_controller_in_a_container_of_its_own(everything: dict[str, Any]) -> None:
    """A node that is both forgets, when it is killed and comes back, to end transactions (KAFKA-20734)."""
    broker, controller = everything["kafka"], everything["controller"]

    assert broker["environment"]["KAFKA_PROCESS_ROLES"] == "broker"
    assert controller["environment"]["KAFKA_PROCESS_ROLES"] == "controller"
    assert controller["image"] == broker["image"]
    assert broker["volumes"][0]["source"] != controller["volumes"][0]["source"]
    assert broker["depends_on"]["controller"]["condition"] == "service_healthy"


def test_the_cluster_keeps_what_it_acknowledged(everything: dict[str, Any]) -> None:
    for number in (1, 2, 3):
        settings = everything[f"kafka-{number}"]["environment"]
        assert settings["KAFKA_DEFAULT_REPLICATION_FACTOR"] == "3"
        assert settings["KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR"] == "3"
        assert settings["KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR"] == "3"
        assert settings["KAFKA_MIN_INSYNC_REPLICAS"] == "2"
        assert settings["KAFKA_TRANSACTION_STATE_LOG_MIN_ISR"] == "2"
        assert settings["KAFKA_UNCLEAN_LEADER_ELECTION_ENABLE"] == "false"


def test_every_service_of_this_repository_is_there_and_is_measured(everything: dict[str, Any]) -> None:
    for service in service_names():
        ours = {*(f"{service}-{part}" for part in ("database", "migrations", "topics")), *OUR_PROCESSES[service]}
        assert ours <= set(everything)

    asked = re.findall(
        r"- ([\w-]+-(?:api|worker|caller))$", (ROOT / "compose/observe/prometheus.yml").read_text(), re.M
    )
    assert sorted(asked) == sorted(OURS)
