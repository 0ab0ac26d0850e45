"""With exactly the rights in docs/deploying.md the services work; without any one, the log names it."""

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import httpx
import psycopg
import pytest
from confluent_kafka import Producer

from dev.servers import Servers
from dev.servers.locked import Grant, LockedKafka
from dev.servers.places import free_port
from shared.command import EXIT_MISCONFIGURED
from shared.service import Service
from shared.testing import SECONDS_MAX, until

ROOT = Path(__file__).parents[3]
PASSWORD = "between you and me"
WORKER, TOPICS, OPERATOR = "`worker`", "`topics`", "operator's commands"
"""Columns of the page's table. Each gets a user of its own."""


def table() -> list[list[str]]:
    """Return the rows of the page's table."""
    page = (ROOT / "docs" / "deploying.md").read_text()
    rows = page.split("<!-- rights -->")[1].split("<!-- end -->")[0].strip().splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def resources(row: str, service: Service) -> list[tuple[str, str]]:
    """Return the resources of a row's first cell, for a service."""
    return {
        "each topic that the service consumes": [("topic", name) for name in sorted(service.consumed_topics)],
        "topic `<service>.outbox`": [("topic", service.lane_topic)],
        "each topic that the service publishes on": [("topic", name) for name in sorted(service.published_topics)],
        "topic `<service>.dead-letters`": [("topic", service.dead_letter_topic)],
        "group `<service>`": [("group", service.name)],
        "transactional ids `<service>-*`": [("transactional_id", f"{service.name}-*")],
    }[row]


def granted(who: str, name: str) -> list[Grant]:
    """Return the rights of a column, for the service `name`."""
    service: Service = import_module(f"services.{name}.handlers").service
    head, _, *rows = table()
    column = head.index(who)
    return [
        Grant(kind, found, operation.lower())
        for row in rows
        for kind, found in resources(row[0], service)
        for operation in re.findall(r"`(\w+)`", row[column])
    ]


class Place:
    """Services with a user for each kind of process, on a broker with an authorizer."""

    def __init__(self, kafka: LockedKafka, servers: Servers, logs: Path) -> None:
        self.kafka = kafka
        self.postgres = servers.postgres
        self.logs = logs
        self.mark = uuid.uuid4().hex[:8]
        self.lanes = "2"

    def prepare(self, *services: str) -> None:
        for service in services:
            self.postgres.create_database(self.database(service))
            assert self.run(service, "migrate", WORKER)[0] == 0
            for who in (WORKER, TOPICS, OPERATOR):
                self.kafka.user(self.user(service, who), PASSWORD)
                self.kafka.grant(self.user(service, who), granted(who, service))
            code, output = self.run(service, "topics --consumed", TOPICS)
            assert code == 0, output

    def database(self, service: str) -> str:
        return f"{service}_{self.mark}"

    @staticmethod
    def user(service: str, who: str) -> str:
        return f"{service}-{who.split(maxsplit=1)[0].strip(chr(39))}"

    def environment(self, service: str, who: str, **more: str) -> dict[str, str]:
        return {
            "PYTHONPATH": str(ROOT),
            "PATH": os.environ["PATH"],
            "DATABASE_URL": self.postgres.dsn(self.database(service)),
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.password_bootstrap,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_USERNAME": self.user(service, who),
            "KAFKA_SASL_PASSWORD": PASSWORD,
            "KAFKA_SSL_CA_LOCATION": str(self.kafka.authority),
            "API_AUTH": "off",
            "PARTITIONS": self.lanes,
            "SESSION_TIMEOUT_MS": "2000",
            **more,
        }

    def run(self, service: str, line: str, who: str, **more: str) -> tuple[int, str]:
        """Run a command to its end; return its exit code and what it wrote."""
        done = subprocess.run(
            (sys.executable, "-m", f"services.{service}", *line.split()),
            env=self.environment(service, who, **more),
            cwd=self.logs,
            capture_output=True,
            text=True,
            timeout=2 * SECONDS_MAX,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def operate(self, line: str, **more: str) -> tuple[int, str]:
        return self.run("inventory", line, OPERATOR, **more)

    @contextmanager
    def running(self, service: str, command: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a process while the block lasts."""
        with (
            (self.logs / f"{service}-{command}.log").open("ab") as log,
            subprocess.Popen(
                (sys.executable, "-m", f"services.{service}", command),
                env=self.environment(service, WORKER, **more),
                cwd=self.logs,
                stderr=log,
            ) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def drop(self, *services: str) -> None:
        for service in services:
            self.postgres.drop_database(self.database(service))


@pytest.fixture(scope="module")
def place(locked: LockedKafka, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(locked, servers, tmp_path_factory.mktemp("logs"))
    made.prepare("inventory", "order")
    yield made
    made.drop("inventory", "order")


@pytest.mark.timeout(4 * SECONDS_MAX)
def test_with_these_rights_an_order_is_placed_published_and_handled(place: Place) -> None:
    """No such item exists: inventory consumes the order and publishes the outcome, and order consumes that. The
    API has no rights.
    """
    port = str(free_port())
    with (
        place.running("order", "api", HTTP_PORT=port),
        place.running("order", "worker"),
        place.running("inventory", "worker"),
    ):
        url = f"http://127.0.0.1:{port}/orders"
        body = {"account": "ada", "lines": [{"sku": "unheard-of", "quantity": 1}]}
        with httpx.Client(timeout=10) as client:
            until(lambda: _answers(client, url), "the API answers", 2 * SECONDS_MAX)
            placed = client.post(url, json=body, headers={"Idempotency-Key": place.mark}).json()["id"]
            until(lambda: client.get(f"{url}/{placed}").json()["state"] == "REJECTED", "it is handled", 2 * SECONDS_MAX)


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).is_success
    except httpx.TransportError:
        return False


NEEDED = granted(WORKER, "inventory")


@pytest.mark.parametrize("grant", NEEDED, ids=[f"{g.operation} {g.name}" for g in NEEDED])
@pytest.mark.parametrize(
    "left", [None, pytest.param("describe", marks=pytest.mark.proof)], ids=["nothing left", "may still see it"]
)
@pytest.mark.timeout(4 * SECONDS_MAX)
def test_a_worker_that_lacks_one_right_ends_and_names_it(place: Place, grant: Grant, left: str | None) -> None:
    """It has something to publish and to consume: an order that was placed."""
    with psycopg.connect(place.postgres.dsn(place.database("inventory"))) as connection:
        connection.execute(
            "INSERT INTO exactly_once_outbox (lane, topic, key, event_id, event_type, event_version, data) "
            "VALUES (0, 'inventory.events', 'x', %s, 'StockSold', 1, '{}'), (0, %s, 'x', %s, 'SetAside', 1, '{}')",
            (uuid.uuid4().hex, "inventory.dead-letters", uuid.uuid4().hex),
        )
    user = place.user("inventory", WORKER)
    place.kafka.revoke(user, grant)
    if left:
        place.kafka.grant(user, [grant._replace(operation=left)])
    try:
        code, output = place.run("inventory", "worker", WORKER)
    finally:
        if left:
            place.kafka.revoke(user, grant._replace(operation=left))
        place.kafka.grant(user, [grant])
    assert code == EXIT_MISCONFIGURED, output
    named = {"topic": grant.operation.upper(), "group": "READ on the group", "transactional_id": "WRITE on the trans"}
    assert named[grant.resource] in output
    assert "docs/deploying.md" in output


@pytest.fixture
def stopped(place: Place) -> Place:
    """The inventory service after its work, with no process running."""
    with place.running("inventory", "worker") as worker:
        until(lambda: place.operate("positions show")[0] == 0, "every position is there", 2 * SECONDS_MAX)
        worker.terminate()
        # Every position may be there from an earlier test; then this worker may not be so far that it can end in order.
        assert worker.wait(SECONDS_MAX) in (0, -signal.SIGTERM)
    return place


def sql(place: Place, statement: str) -> None:
    with psycopg.connect(place.postgres.dsn(place.database("inventory"))) as connection:
        connection.execute(statement.encode())


@pytest.mark.timeout(6 * SECONDS_MAX)
@pytest.mark.parametrize(
    ("line", "grant", "damage"),
    [
        ("positions show", Grant("group", "inventory", "read"), None),
        ("positions show", Grant("topic", "order.events", "read"), None),
        (
            "positions rewind --target order.events[0] --to 0 --yes",
            Grant("group", "inventory", "read"),
            "UPDATE exactly_once_position SET next_offset = 0 WHERE topic = 'order.events' AND partition = 0",
        ),
        (
            "positions adopt --target lane-0 --yes",
            Grant("topic", "inventory.events", "read"),
            "UPDATE exactly_once_lane SET position = position + 7 WHERE lane = 0",
        ),
        ("lanes resize --yes", Grant("topic", "inventory.outbox", "alter"), None),
    ],
    ids=["show: group", "show: topic", "rewind", "adopt", "resize"],
)
def test_an_operator_needs_the_rights_of_the_table(stopped: Place, line: str, grant: Grant, damage: str | None) -> None:
    """Without the right the command says so and changes nothing; with it, the command works."""
    sql(
        stopped,
        "INSERT INTO exactly_once_outbox (lane, topic, key, event_id, event_type, event_version, data) "
        f"VALUES (0, 'inventory.events', 'x', '{uuid.uuid4().hex}', 'StockSold', 1, '{{}}')",
    )
    if damage:
        sql(stopped, damage)
    lanes = {"PARTITIONS": "3"} if line.startswith("lanes") else {}
    user = stopped.user("inventory", OPERATOR)
    stopped.kafka.revoke(user, grant)
    try:
        code, output = stopped.operate(line, **lanes)
    finally:
        stopped.kafka.grant(user, [grant])
    assert (code, "docs/deploying.md" in output) == (1, True), output
    code, output = stopped.operate(line, **lanes)
    assert code == 0, output
    stopped.lanes = lanes.get("PARTITIONS", stopped.lanes)  # the next test finds it so


@pytest.mark.timeout(4 * SECONDS_MAX)
def test_who_may_not_see_a_strangers_transactional_id_is_told_so(stopped: Place) -> None:
    """Without the optional right the log names its producer and the right; with it, its transactional id."""
    stranger = Producer(
        {
            "bootstrap.servers": stopped.kafka.bootstrap,
            "transactional.id": f"stranger-{stopped.mark}",
            "transaction.timeout.ms": 240_000,
            "log_level": 0,
        }
    )
    stranger.init_transactions(SECONDS_MAX)
    stranger.begin_transaction()
    stranger.produce("order.events", b"{}", partition=0)
    assert stranger.flush(SECONDS_MAX) == 0
    user, right = stopped.user("inventory", OPERATOR), Grant("transactional_id", "*", "describe")

    code, output = stopped.operate("positions show", LOG_LEVEL="debug")
    assert code == 0, output
    unknown = r"of producer \d+, epoch 0, whose transactional id is unknown \(this user may lack the right DESCRIBE on"
    assert re.search(unknown, output), output

    stopped.kafka.grant(user, [right])
    try:
        code, output = stopped.operate("positions show", LOG_LEVEL="debug")
    finally:
        stopped.kafka.revoke(user, right)
        stranger.abort_transaction(SECONDS_MAX)
    assert code == 0, output
    assert f"by transactional id stranger-{stopped.mark} (producer " in output
    assert PASSWORD not in output
