"""The verdicts on PostgreSQL's server, schema and clock. The refusals themselves are those of a start, tested there."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from shared.errors import DatabaseUnavailable, Misconfigured
from shared.operations.doctor import database
from shared.operations.doctor.network import Address
from shared.postgres import tables
from shared.postgres.migrations import Migration
from tests.unit.operations.doctor import canned

COLUMNS = {(name, column.name) for name, table in tables.metadata.tables.items() for column in table.columns}


def case(*, pooler: bool = False, dsn: str = "postgresql+psycopg://me:pw@db/x") -> Any:
    settings = SimpleNamespace(database_pooler=pooler, dsn=lambda _: dsn)
    service = SimpleNamespace(name="order")
    return SimpleNamespace(settings=settings, service=service, engine=None, command=lambda words: f"`{words}`")


def refusing(error: Exception) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise error

    return refuse


@pytest.mark.parametrize(
    ("check", "refusal", "error", "verdict"),
    [
        (database.safety, "engine.refuse_unsafe", Misconfigured("the server runs with fsync = off"), "fault"),
        (database.safety, "engine.refuse_unsafe", DatabaseUnavailable("leads to a standby"), "fault"),
        (database.schema, "migrations.refuse_behind", Misconfigured("no tables yet"), "fault"),
        (database.rights, "roles.refuse_without_rights", Misconfigured("lacks SELECT"), "fault"),
        (database.pooler, "engine.refuse_transaction_pooler", Misconfigured("leads to a pooler"), "fault"),
        (database.connection, "access.connect", Misconfigured("authentication failed"), "fault"),
        (database.connection, "access.connect", DatabaseUnavailable("is it up?"), "fault"),
    ],
)
def test_what_a_start_refuses_is_a_fault_in_its_words(
    monkeypatch: pytest.MonkeyPatch, check: Any, refusal: str, error: Exception, verdict: str
) -> None:
    monkeypatch.setattr(f"shared.postgres.{refusal}", refusing(error))
    (found,) = check(case())
    assert (found.verdict, found.seen) == (verdict, str(error))
    assert found.mend
    assert found.see


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DatabaseUnavailable("is it up? connection timeout expired"), "takes connections and does not answer"),
        (DatabaseUnavailable("is it up? sorry, too many clients already"), "correct DATABASE_URL, or the server"),
        (Misconfigured("authentication failed"), "correct DATABASE_URL, or the server"),
    ],
)
def test_a_server_that_is_silent_has_no_wrong_address(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    monkeypatch.setattr("shared.postgres.access.connect", refusing(error))
    (found,) = database.connection(case())
    assert words in str(found.mend)


HISTORY = [Migration("0001", "pre", "0001_pre_a"), Migration("0002", "post", "0002_post_b")]


@pytest.mark.parametrize(
    ("revision", "pending", "verdict", "words"),
    [
        ("0002", [], "ok", "is at 0002_post_b, the last"),
        ("0001", ["0002_post_b"], "warning", "0002_post_b wait"),
        ("0003", [], "warning", "newer than this code"),
    ],
)
def test_a_schema_that_a_process_accepts(
    monkeypatch: pytest.MonkeyPatch, revision: str, pending: list[str], verdict: str, words: str
) -> None:
    for name, answer in (("refuse_behind", None), ("behind", pending), ("history", HISTORY)):
        monkeypatch.setattr(f"shared.postgres.migrations.{name}", lambda *_, answer=answer: answer)
    monkeypatch.setattr("shared.postgres.version_table.revision", lambda _: revision)
    (found,) = database.schema(canned.case())
    assert (found.verdict, words in found.seen) == (verdict, True), found


@pytest.mark.parametrize(("temporary", "verdict"), [(True, "ok"), (False, "warning")])
def test_the_right_to_temporary_tables(monkeypatch: pytest.MonkeyPatch, temporary: bool, verdict: str) -> None:
    monkeypatch.setattr("shared.postgres.roles.refuse_without_rights", lambda *_: None)
    (found,) = database.rights(canned.case([(temporary,)]))
    assert found.verdict == verdict


def test_the_tables_of_the_library_are_looked_for() -> None:
    assert [one.verdict for one in database.library_tables(canned.case(sorted(COLUMNS)))] == ["ok"]
    (found,) = database.library_tables(canned.case([]))
    assert (found.verdict, "exactly_once_cluster" in found.seen, "CHANGELOG" in str(found.mend)) == (
        "fault",
        True,
        True,
    )


def test_the_clock_is_read_between_two_looks_at_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1_000.0, 1_000.2])
    monkeypatch.setattr(database, "time", SimpleNamespace(time=lambda: next(times)))
    (found,) = database.clock(canned.case([(1,)], [(1_010.1,)]))
    assert (found.verdict, "10.000 s ahead of ours, give or take 0.100 s" in found.seen) == ("warning", True)


def test_who_is_let_in_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.postgres.access.connect", lambda engine: engine.connect())
    (found,) = database.connection(canned.case([("18.1", "order", "order_app", True)]))
    assert found.seen == "PostgreSQL 18.1, database order, role order_app, with TLS"


def test_behind_a_pooler_that_is_known_an_api_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.postgres.engine.refuse_transaction_pooler", refusing(Misconfigured("a pooler")))
    (found,) = database.pooler(case(pooler=True))
    assert found.verdict == "warning"


@pytest.mark.parametrize(("away", "verdict"), [({}, "ok"), ({"one"}, "warning"), ({"one", "two"}, "fault")])
def test_one_host_that_answers_is_enough(monkeypatch: pytest.MonkeyPatch, away: set[str], verdict: str) -> None:
    hosts = [Address("one", 1), Address("two", 2)]
    monkeypatch.setattr("shared.operations.doctor.network.of_postgres", lambda _: hosts)
    monkeypatch.setattr(
        "shared.operations.doctor.network.all_unreachable",
        lambda asked: {host: "connection refused" if host.host in away else "" for host in asked},
    )
    (found,) = database.address(case())
    assert found.verdict == verdict


def test_a_socket_is_not_asked_for_its_certificate() -> None:
    (found,) = database.certificate(case(dsn="postgresql+psycopg:///x?host=/tmp"))
    assert found.verdict == "ok"


def test_the_tables_of_an_earlier_version_are_told_by_what_they_lack() -> None:
    assert database.lacking(COLUMNS) == []
    assert database.lacking(COLUMNS | {("trail", "key")}) == []
    assert database.lacking({one for one in COLUMNS if one[0] != "exactly_once_call"}) == ["exactly_once_call"]
    assert database.lacking(COLUMNS - {("exactly_once_lane", "claim_id")}) == ["exactly_once_lane.claim_id"]


@pytest.mark.parametrize(
    ("ahead", "doubt", "verdict"),
    [
        (0.001, 0.001, "ok"),
        (-6.0, 0.01, "warning"),
        (6.0, 2.0, "ok"),
        (4_000.0, 0.01, "fault"),
        (-4_000.0, 0.01, "fault"),
    ],
)
def test_clocks_that_differ(ahead: float, doubt: float, verdict: str) -> None:
    assert database.skew(ahead, doubt).verdict == verdict


def test_many_names_are_cut() -> None:
    assert database.some(["a", "b"]) == "a, b"
    assert database.some(list("abcdefg")) == "a, b, c, d, e and 2 more"
