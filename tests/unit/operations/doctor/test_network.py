"""Addresses are read from settings as the clients read them, and the step that fails is named."""

import socket
from pathlib import Path

import pytest

from dev.servers.places import free_port
from shared.configuration.database_url import sqlalchemy_url
from shared.operations.doctor import network
from shared.operations.doctor.network import Address
from shared.settings import Settings


def test_the_brokers() -> None:
    settings = Settings.model_validate({"kafka_bootstrap_servers": "one:9092,[::1]:19092", "database_url": "x"})
    assert network.of_kafka(settings) == [("one", 9092), ("::1", 19092)]


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("postgresql://me:pw@db/{service}", [("db", 5432)]),
        ("postgresql://me:pw@db:6432/x", [("db", 6432)]),
        ("postgresql://me@one:1,two:2/x", [("one", 1), ("two", 2)]),
        ("postgresql://me@%2Fvar%2Frun/x", [("/var/run", 5432)]),
        ("postgresql://me@/x?host=/tmp&port=7", [("/tmp", 7)]),
        ("postgresql://me@[::1]:7/x", [("::1", 7)]),
        ("postgresql://me@/x", []),
    ],
)
def test_the_hosts_of_a_database(url: str, found: list[tuple[str, int]]) -> None:
    assert network.of_postgres(sqlalchemy_url("DATABASE_URL", url, "order")) == found


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://bank.example/v1", ("bank.example", 443)),
        ("http://127.0.0.1:8090", ("127.0.0.1", 8090)),
        ("ftp://bank", None),
        ("http://bank:no", None),
        ("nonsense", None),
    ],
)
def test_where_a_url_leads(url: str, found: tuple[str, int] | None) -> None:
    assert network.of_url(url) == found


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.9", True), ("localhost", True), ("::1", True), ("/var/run", True), ("db", False), ("10.0.0.1", False)],
)
def test_what_stays_on_this_machine(host: str, here: bool) -> None:
    assert Address(host, 1).is_here == here


def test_who_listens_is_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert network.unreachable(Address("127.0.0.1", server.getsockname()[1])) == ""


def test_who_does_not_is_told_by_the_step_that_fails(tmp_path: Path) -> None:
    nobody, nowhere = Address("127.0.0.1", free_port()), Address("nowhere.invalid", 1)
    folder, long = Address(str(tmp_path), 5432), Address("x" * 300, 1)

    found = network.all_unreachable([nobody, nowhere, folder, long])

    assert found[nobody] == "connection refused"
    assert found[nowhere].startswith("the name nowhere.invalid does not resolve")
    assert found[folder] == "no such file or directory"
    assert found[long].startswith("the name xxx")


def test_the_socket_of_a_database_is_a_file(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / ".s.PGSQL.5432"))
        server.listen()
        assert network.unreachable(Address(str(tmp_path), 5432)) == ""


def test_one_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "CONNECT_SECONDS", 0.05)
    with socket.socket() as server:  # one connection fills the queue of who never accepts
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        place = Address("127.0.0.1", server.getsockname()[1])
        fill = [socket.socket() for _ in range(4)]
        for each in fill:
            each.setblocking(False)
            each.connect_ex(place)
        assert network.unreachable(place) == network.SILENT
        for each in fill:
            each.close()
