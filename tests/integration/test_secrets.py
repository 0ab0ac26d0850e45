"""No failure makes a process print a secret: all its output and pages are searched for all its secrets."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from dev.servers import Servers
from dev.servers.locked import Grant, LockedKafka
from dev.servers.places import free_port
from shared.http import tokens
from shared.testing import SECONDS_MAX, until

ROOT = Path(__file__).parents[2]
DATABASE, KAFKA, KEY, MIGRATION = (f"{kind}-Se%63ret-{uuid.uuid4().hex}" for kind in ("pg", "kafka", "key", "owner"))
"""Each has a letter written as %63: neither spelling may be printed."""
TOKEN, ENTRY = tokens.make("shop", ["accounts:write", "accounts:read"])
SECRETS = [DATABASE, DATABASE.replace("%63", "c"), MIGRATION, MIGRATION.replace("%63", "c"), KAFKA, KEY, TOKEN, ENTRY]


class Told:
    """A payment service with every kind of secret, by files and by variables."""

    def __init__(self, servers: Servers, locked: LockedKafka, folder: Path) -> None:
        self.name = f"payment_{uuid.uuid4().hex[:12]}"
        self.app = f"{self.name}_app"
        self.folder = folder
        self.servers = servers
        self.dsn = servers.postgres.dsn(self.name)
        _, _, self.at = self.dsn.partition("@")
        servers.postgres.create_database(self.name)
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            password = DATABASE.replace("%63", "c")
            connection.execute(f"CREATE ROLE {self.app} LOGIN PASSWORD '{password}'".encode())
        (folder / "database-url").write_text(f"postgresql://{self.app}:{DATABASE}@{self.at}\n")
        (folder / "kafka-password").write_text(KAFKA)
        locked.user("secretive", KAFKA)
        everything = [Grant("topic", "*", "all"), Grant("group", "*", "all"), Grant("transactional_id", "*", "all")]
        locked.grant("secretive", everything)
        self.variables = {
            "DATABASE_URL_FILE": str(folder / "database-url"),
            "KAFKA_BOOTSTRAP_SERVERS": locked.password_bootstrap,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_USERNAME": "secretive",
            "KAFKA_SASL_PASSWORD_FILE": str(folder / "kafka-password"),
            "KAFKA_SSL_CA_LOCATION": str(locked.authority),
            "KAFKA_SSL_KEY_PASSWORD": KEY,
            "API_TOKENS": ENTRY,
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "debug",
        }

    def environment(self, **changes: str) -> dict[str, str]:
        return {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **self.variables, **changes}

    def run(self, line: str, **changes: str) -> tuple[int, str]:
        done = subprocess.run(
            (sys.executable, "-m", "services.payment", *line.split()),
            env=self.environment(**changes),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    @contextmanager
    def serving(self, command: str, **changes: str) -> Iterator[tuple[httpx.Client, Path]]:
        """Run a process until it answers; return a client for it, and its log."""
        port, log = str(free_port()), self.folder / f"{uuid.uuid4().hex}.log"
        ports = {"HTTP_PORT": port, "METRICS_PORT": port}
        with (
            log.open("wb") as output,
            subprocess.Popen(
                (sys.executable, "-m", "services.payment", command),
                env=self.environment(**ports, **changes),
                cwd=self.folder,
                stdout=output,
                stderr=output,
            ) as process,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
        ):

            def answers() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    return client.get("/health/ready").is_success
                except httpx.TransportError:
                    return False

            try:
                until(answers, "it is ready")
                yield client, log
            finally:
                process.terminate()
                process.wait(SECONDS_MAX)


def betrayed(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


@pytest.fixture(scope="module")
def told(servers: Servers, locked: LockedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    made = Told(servers, locked, tmp_path_factory.mktemp("told"))
    owner = made.dsn
    code, output = made.run("migrate", MIGRATION_DATABASE_URL=owner)
    assert (code, betrayed(output)) == (0, []), output
    code, output = made.run("topics --consumed")
    assert (code, betrayed(output)) == (0, []), output
    yield made
    servers.postgres.drop_database(made.name)


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_api_that_fails_says_nothing_of_them(told: Told, form: str) -> None:
    """A defect is logged with its whole traceback, with the request's headers and the connection at hand."""
    authorization = {"Authorization": f"Bearer {TOKEN}"}
    with told.serving("api", LOG_FORMAT=form) as (client, log):
        pages = [client.get(path).text for path in ("/metrics", "/openapi.json", "/docs", "/health/ready")]
        account = f"a-{uuid.uuid4().hex}"
        assert client.put(f"/accounts/{account}", json={"currency": "EUR"}, headers=authorization).is_success
        with psycopg.connect(told.dsn, autocommit=True) as superuser:
            superuser.execute("ALTER TABLE entry ADD CONSTRAINT none CHECK (amount <> 777123)")
            failed = client.post(
                f"/accounts/{account}/deposits",
                json={"amount": 777123, "currency": "EUR"},
                headers={**authorization, "Idempotency-Key": account},
            )
            superuser.execute("ALTER TABLE entry DROP CONSTRAINT none")
            assert failed.status_code == 500
            # The role is locked out, and its sessions end: the API needs a new one and gets none.
            superuser.execute(f"ALTER ROLE {told.app} NOLOGIN".encode())
            superuser.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{told.app}'".encode()
            )
            away = client.get(f"/accounts/{account}", headers=authorization)
            superuser.execute(f"ALTER ROLE {told.app} LOGIN".encode())
            assert away.status_code == 503
    logged = log.read_text()
    assert "request_failed" in logged
    assert "entry" in logged  # the cause is there
    assert "database_unavailable" in logged
    assert betrayed("".join([*pages, failed.text, away.text, logged])) == []
    assert "777123" not in failed.text + logged  # a value of the statement that failed, and of the row in its DETAIL


def test_a_worker_that_fails_says_nothing_of_them(told: Told) -> None:
    with told.serving("worker") as (client, log):
        pages = [client.get(path).text for path in ("/metrics", "/health/ready")]
        with psycopg.connect(told.dsn, autocommit=True) as superuser:
            superuser.execute(f"ALTER ROLE {told.app} NOLOGIN".encode())
            superuser.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{told.app}'".encode()
            )
            until(lambda: client.get("/health/ready").status_code == 503, "it is not ready")
            pages.append(client.get("/health/ready").text)
            superuser.execute(f"ALTER ROLE {told.app} LOGIN".encode())
    assert betrayed("".join([*pages, log.read_text()])) == []


WRONG = [
    (("worker",), "PARTITIONS", "none"),
    (("worker", "api", "migrate", "positions show"), "DATABASE_URL", f"postgresql://me:{DATABASE}@127.0.0.1:port/x"),
    (("worker", "api", "migrate", "positions show"), "DATABASE_URL", f"postgresql://me:{DATABASE}@127.0.0.1:1/x"),
    (("worker", "positions show"), "DATABASE_URL", f"postgresql://me:{DATABASE}@127.0.0.1:1/x?colour={DATABASE}"),
    (("api",), "DATABASE_URL", f"mysql://me:{DATABASE}@127.0.0.1:1/x"),
    (("api",), "DATABASE_URL", DATABASE),
    (("migrate",), "MIGRATION_DATABASE_URL", f"postgresql://me:{MIGRATION}@127.0.0.1:port/x"),
    (("migrate",), "MIGRATION_DATABASE_URL", f"postgresql://me:{MIGRATION}@{{at}}"),
    (("worker", "topics", "positions show"), "KAFKA_SASL_USERNAME", "stranger"),
    (("api",), "KAFKA_SASL_USERNAME", ""),
    (("topics",), "KAFKA_SSL_CA_LOCATION", ""),
    (("api",), "KAFKA_SECURITY_PROTOCOL", "PLAINTEXT"),
    (("api",), "API_TOKENS", f"{ENTRY} shop:{TOKEN}"),
]


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        pytest.param(line, name, value, marks=() if line == lines[0] else pytest.mark.proof)
        for lines, name, value in WRONG
        for line in lines
    ],
    ids=[f"{line}: {name} {number}" for number, (lines, name, _) in enumerate(WRONG) for line in lines],
)
def test_a_start_that_fails_says_nothing_of_them(told: Told, line: str, name: str, value: str) -> None:
    code, output = told.run(line, **{name: value.replace("{at}", told.at)})
    assert code != 0
    assert output
    assert betrayed(output) == []
    assert "Traceback" not in output
