"""What is refused and what works behind PgBouncer. It is in no wheel; where it is not installed, only `make
pooler-test` tests this.
"""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from dev.servers import Servers
from dev.servers.places import free_port
from dev.servers.unprivileged import account
from services.payment.container import PaymentContainer
from shared.errors import Misconfigured
from shared.postgres import engine as postgres_engine
from shared.settings import Settings
from shared.testing import until
from shared.testing.api import served
from shared.testing.databases import RUNTIME, migrated

PGBOUNCER = shutil.which("pgbouncer")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
ROLE_SETTINGS = {"idle_in_transaction_session_timeout": "10s", "lock_timeout": "5s", "statement_timeout": "30s"}


@pytest.fixture(scope="module")
def direct(servers: Servers) -> Iterator[Settings]:
    """Settings that lead directly to PostgreSQL."""
    with migrated(servers.postgres, "payment") as settings:
        yield settings


@contextmanager
def pooled(direct: Settings, mode: str, folder: Path, **more: str) -> Iterator[Settings]:
    """Run PgBouncer in front; yield settings that lead to it."""
    assert PGBOUNCER
    url = psycopg.conninfo.conninfo_to_dict(direct.dsn("payment").replace("+psycopg", ""))
    port = free_port()
    home = folder / uuid.uuid4().hex
    home.mkdir()
    (home / "users.txt").write_text(f'"{url["user"]}" "{url["password"]}"\n')
    config = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": str(home / "users.txt"),
        "pool_mode": mode,
        **more,
    }
    lines = ["[databases]", f"* = host={url['host']} port={url['port']}", "[pgbouncer]"]
    (home / "pgbouncer.ini").write_text("\n".join([*lines, *(f"{name} = {value}" for name, value in config.items())]))
    runs_as = account()
    for path in (*home.iterdir(), home, *home.parents[:4]):
        if runs_as and path.owner() == "root" and path != Path("/tmp"):
            path.chmod(0o755)
    with subprocess.Popen(
        [PGBOUNCER, home / "pgbouncer.ini"],
        user=runs_as.user if runs_as else None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    ) as process:
        try:
            pooler = direct.dsn("payment").replace(f":{url['port']}/", f":{port}/").replace("+psycopg", "")
            until(lambda: answers(pooler, process), "the pooler answers")
            yield direct.model_copy(update={"database_url": type(direct.database_url)(pooler)})
        finally:
            process.kill()


def answers(url: str, process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, process.stderr and process.stderr.read()
    try:
        with psycopg.connect(url, connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


def behind(settings: Settings) -> Settings:
    return settings.model_copy(update={"database_pooler": True})


@pytest.fixture
def role_has_timeouts(servers: Servers) -> Iterator[None]:
    """Set the timeouts on the role, as the page says."""
    with psycopg.connect(servers.postgres.dsn(), autocommit=True) as connection:
        for name, value in ROLE_SETTINGS.items():
            connection.execute(f"ALTER ROLE {RUNTIME} SET {name} = '{value}'".encode())
        yield
        connection.execute(f"ALTER ROLE {RUNTIME} RESET ALL".encode())


def test_a_pooler_that_refuses_options_is_named(direct: Settings, tmp_path: Path) -> None:
    with pooled(direct, "session", tmp_path) as settings:
        engine = postgres_engine.connect(settings, "payment", 1)
        with pytest.raises(Misconfigured, match="so DATABASE_POOLER=true is needed"):
            postgres_engine.refuse_unsafe(engine)


@pytest.mark.parametrize("told", [False, True], ids=["options are dropped", "no options are sent"])
def test_a_session_without_timeouts_is_refused(direct: Settings, tmp_path: Path, told: bool) -> None:
    """Without them a request would wait for a lock for ever."""
    with pooled(direct, "session", tmp_path, ignore_startup_parameters="options") as settings:
        engine = postgres_engine.connect(behind(settings) if told else settings, "payment", 1)
        with pytest.raises(Misconfigured, match=rf"ALTER ROLE {RUNTIME} SET idle_in_transaction_session_timeout"):
            postgres_engine.refuse_unsafe(engine)
        engine.dispose()


@pytest.mark.parametrize("turns", ["0", "1"], ids=["the last session first", "in turns"])
@pytest.mark.usefixtures("role_has_timeouts")
def test_a_worker_is_refused_where_transactions_have_other_sessions(
    direct: Settings, tmp_path: Path, turns: str
) -> None:
    with pooled(direct, "transaction", tmp_path, server_round_robin=turns) as settings:
        engine = postgres_engine.connect(behind(settings), "payment", 2)
        postgres_engine.refuse_unsafe(engine)
        with pytest.raises(Misconfigured, match="pool_mode = session"):
            postgres_engine.refuse_transaction_pooler(engine)
        engine.dispose()


@pytest.mark.parametrize("through", ["nothing", "a session pooler"])
@pytest.mark.usefixtures("role_has_timeouts")
def test_a_worker_is_let_in_where_a_connection_keeps_its_session(
    direct: Settings, tmp_path: Path, through: str
) -> None:
    with pooled(direct, "session", tmp_path) as settings:
        engine = postgres_engine.connect(direct if through == "nothing" else behind(settings), "payment", 2)
        postgres_engine.refuse_unsafe(engine)
        postgres_engine.refuse_transaction_pooler(engine)
        engine.dispose()


@pytest.mark.usefixtures("role_has_timeouts")
def test_an_api_works_behind_a_transaction_pooler(direct: Settings, tmp_path: Path) -> None:
    """It is asked often enough that the driver would prepare a statement, and in more than one session."""
    with (
        pooled(direct, "transaction", tmp_path, server_round_robin="1", min_pool_size="3") as settings,
        served(PaymentContainer, behind(settings)) as api,
    ):
        name = f"a-{uuid.uuid4().hex}"
        assert api.put(f"/accounts/{name}", json={"currency": "EUR"}).status_code == 201
        for _ in range(30):
            deposit = api.post(f"/accounts/{name}/deposits", json={"amount": 1, "currency": "EUR"})
            assert deposit.status_code == 201
        assert api.get(f"/accounts/{name}").json()["balance"] == 30


@pytest.mark.usefixtures("role_has_timeouts")
def test_prepared_statements_are_what_a_transaction_pooler_breaks(direct: Settings, tmp_path: Path) -> None:
    """Hence DATABASE_POOLER turns them off: without it this fails."""
    with pooled(direct, "transaction", tmp_path, server_round_robin="1", min_pool_size="3") as settings:
        url = settings.dsn("payment").replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True, prepare_threshold=0) as one, psycopg.connect(url) as other:

            def in_turns() -> None:
                for number in range(30):
                    other.execute("SELECT 1")  # holds one of the sessions
                    one.execute("SELECT %s", (number,))
                    other.commit()

            with pytest.raises(psycopg.Error, match="prepared statement"):
                in_turns()
