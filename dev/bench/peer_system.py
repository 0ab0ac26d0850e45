"""The peer's processes, databases and topics, for as long as a block lasts."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psycopg
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from dev.bench.customers import Customers
from dev.bench.inventory import PARTITIONS, wait_until
from dev.bench.load import ACCOUNTS, ITEMS
from dev.bench.meter import BANK, Meter
from dev.bench.orders import sku
from dev.bench.peer import TOPICS
from dev.bench.shop import MONEY, PIECES
from dev.program import Program
from dev.servers import Servers
from dev.servers.places import HOST, free_port
from dev.servers.prepare import ROOT
from dev.servers.process import environment
from dev.supervisor import Supervisor
from services.inventory import models as inventory
from services.order import models as order
from services.payment import models as payment

WORKERS = 4
"""Of each service, one for each partition: the most that have something to do. A worker waits for three servers in turn
for each record, so this many are needed to fill two cores."""
API = "order api"
ANSWER_SECONDS = 10.0
BASES = {"order": order.Base, "inventory": inventory.Base, "payment": payment.Base}


@contextmanager
def peer(servers: Servers, *, instead_of: Sequence[str] = ()) -> Iterator[tuple[Customers, Meter]]:
    """Run the peer, its shelves and accounts filled like ours. The databases `instead_of` are dropped first: they would
    give PostgreSQL work while the peer is measured.
    """
    for name in instead_of:
        servers.postgres.drop_database(name)
    with psycopg.connect(servers.postgres.dsn(), autocommit=True) as connection:
        connection.execute("CHECKPOINT")
    admin = AdminClient({"bootstrap.servers": servers.kafka.bootstrap})
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in TOPICS.values()]).values():
        future.result(ANSWER_SECONDS)
    for service in BASES:
        servers.postgres.create_database(_database(service))
        _tables(servers, service)
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exactly-once-peer-")))
        supervisor = stack.enter_context(Supervisor(logs))
        port, bank = free_port(), free_port()
        place = ("--port", str(bank), "--books", str(logs / "bank.sqlite"))
        supervisor.start(
            Program(BANK, (sys.executable, "-m", "dev.bank", *place), environment(PYTHONPATH=str(ROOT)), logs)
        )
        names = [(f"{service} {number}", service) for service in BASES for number in range(WORKERS)]
        for name, command in [(API, "order-api"), *names]:
            env = environment(
                PYTHONPATH=str(ROOT),
                KAFKA_BOOTSTRAP_SERVERS=servers.kafka.bootstrap,
                DATABASE_URL=_url(servers, command.partition("-")[0]),
                HTTP_PORT=str(port),
                BANK_URL=f"http://{HOST}:{bank}",
            )
            supervisor.start(Program(name, (sys.executable, "-m", "dev.bench.peer", command), env, logs))
        url = f"http://{HOST}:{port}"
        try:
            wait_until(lambda: _is_ready(url), "the peer's API answers")
            with Customers(f"{url}/orders", servers.kafka.bootstrap, TOPICS["order"]) as customers:
                processes = {"API": [API], "workers": [name for name, _ in names], BANK: [BANK]}
                yield customers, Meter(supervisor, servers, processes)
        except Exception as error:
            for name, _ in [(API, ""), *names]:
                error.add_note(f"The log of the peer's {name} ends:\n{supervisor.tail(name, lines=5)}")
            raise


def _database(service: str) -> str:
    return f"peer_{service}"


def _url(servers: Servers, service: str) -> str:
    return servers.postgres.dsn(_database(service)).replace("postgresql:", "postgresql+psycopg:", 1)


def _tables(servers: Servers, service: str) -> None:
    """Make the tables of a service, and fill what its customers use up."""
    engine = create_engine(_url(servers, service))
    BASES[service].metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        if service == "inventory":
            stock = {"price": 100, "currency": "EUR", "available": PIECES, "received": PIECES}
            session.add_all(inventory.Stock(sku=sku(number), **stock) for number in range(ITEMS))
        if service == "payment":
            money = {"currency": "EUR", "balance": MONEY}
            session.add_all(payment.Account(id=f"account-{number}", **money) for number in range(ACCOUNTS))
    engine.dispose()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=ANSWER_SECONDS, trust_env=False).is_success
    except httpx.TransportError:
        return False
