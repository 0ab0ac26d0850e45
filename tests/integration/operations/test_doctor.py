"""`doctor` finds nothing at a healthy service, and each thing that is really broken."""

import json
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from confluent_kafka import Producer
from pydantic import SecretStr

from dev.servers import Servers
from dev.servers.locked import Grant, LockedKafka
from dev.servers.places import free_port
from shared import command
from shared.kafka import access, topics
from shared.operations.doctor import doctor, sessions
from shared.operations.doctor.case import Case
from shared.operations.doctor.certificates import handshake
from shared.operations.doctor.checks import CHECKS
from shared.operations.doctor.findings import Finding
from shared.operations.doctor.network import Address
from shared.postgres import engine
from shared.settings import Settings
from shared.testing import SECONDS_MAX, until
from tests.faults import trail
from tests.integration.tallies import RUNTIME, Tallies

OF_THE_MACHINE = {"kafka disk", "postgres limits"}
"""Others fill its disk, and take connections."""

PASSWORD = "between you and me"

BLOCKED = """
    SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
"""


class Report:
    """What `doctor` printed."""

    def __init__(self, code: int, printed: str) -> None:
        self.code = code
        self.printed = printed
        self.findings: list[dict[str, Any]] = json.loads(printed)["findings"]

    def of(self, check: str) -> list[tuple[str, str]]:
        """Return verdicts and words of one check."""
        found = [(one["verdict"], one["seen"]) for one in self.findings if one["check"] == check]
        assert found, f"{check} is not told"
        return found

    def wrong(self) -> dict[str, str]:
        """Return the verdicts that are not ok, but those of the machine and of what could not be asked."""
        return {
            one["check"]: one["verdict"]
            for one in self.findings
            if one["verdict"] != "ok" and one["behind"] is None and one["check"] not in OF_THE_MACHINE
        }


Doctor = Callable[..., Report]

KNOWN = {
    "settings agreement": "warning",  # no token is set
    "kafka replication": "warning",  # a single broker
    "kafka group": "warning",  # no worker is left
    "postgres disk": "unknown",
}
"""What it finds at the small service that has nothing to do with a test."""


PATIENT = tuple(check._replace(seconds=SECONDS_MAX) for check in CHECKS)
"""On a busy machine an answer takes longer than an operator should wait."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run, and find the migrations."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(doctor, "CHECKS", PATIENT)
    monkeypatch.setattr(doctor, "SECONDS_MAX", 2 * SECONDS_MAX)
    monkeypatch.setattr(sessions, "LOOK_SECONDS", 0.5)  # nobody is here whose transactions come and go


@contextmanager
def worked(servers: Servers, root: Path) -> Iterator[Tallies]:
    """Make a service that has worked, with a history of one migration."""
    with Tallies(servers) as made:
        folder = root / "migrations" / made.name
        folder.mkdir(parents=True)
        (folder / "0001_pre_tables.py").touch()
        made.sql("CREATE TABLE exactly_once_schema_version AS SELECT '0001' AS version_num")
        made.sql(f"GRANT SELECT ON exactly_once_schema_version TO {RUNTIME}")
        made.ask(1, 2)
        made.work()
        yield made


@pytest.fixture(scope="module")
def tallies(servers: Servers, root: Path) -> Iterator[Tallies]:
    """A healthy service. A test that breaks it mends it."""
    with worked(servers, root) as made:
        yield made


@contextmanager
def broken(tallies: Tallies, by: str, mend: str) -> Iterator[None]:
    """Break something while the block runs."""
    tallies.sql(by)
    yield
    tallies.sql(mend)


@pytest.fixture
def look(tallies: Tallies, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run the command, with `more` settings."""

    def run(of: Tallies = tallies, **more: object) -> Report:
        capsys.readouterr()
        built = trail.container(of.kit, of.settings.model_copy(update=more))
        try:
            code = command.run(built, ["doctor", "--json"])
        finally:
            built.engine().dispose()
        return Report(code, capsys.readouterr().out)

    return run


def test_a_healthy_service(tallies: Tallies, look: Doctor) -> None:
    report = look()

    assert (report.wrong(), report.code) == (KNOWN, 0), report.printed
    assert {one["check"] for one in report.findings} == {check.name for check in CHECKS}
    assert [one for one in report.findings if one["behind"]] == [], "everything was looked at"
    assert f"database {tallies.name}, role {RUNTIME}" in report.of("postgres connection")[0][1]
    assert "agree on cluster, topics, lanes and every position" in report.of("positions")[0][1]


def test_what_waits_for_somebody(tallies: Tallies, look: Doctor) -> None:
    letters, parked, calls = "exactly_once_dead_letter", "exactly_once_parked", "exactly_once_call"
    letter = """INSERT INTO exactly_once_dead_letter (topic, partition, "offset", epoch, headers, error, detail)
        VALUES ('t', 0, 0, 0, '[]', 'ValueError', 'no')"""
    record = """INSERT INTO exactly_once_parked (
            topic, partition, epoch, "offset", key, source, event_id, headers, bytes, attempts, due, parked_at
        ) VALUES ('t', 0, 0, 0, 'k', 's', 'i', '[]', 1, 1, 'tomorrow', clock_timestamp() - interval '1 hour')"""
    call = """INSERT INTO exactly_once_call (
            destination, key, call_id, call_type, call_version, data, due_at, give_up_at, maybe_done, stuck
        ) VALUES ('bank', 'k', 'i', 'Pay', 1, '{}', 'tomorrow', 'tomorrow', TRUE, TRUE)"""
    with (
        broken(tallies, letter, f"DELETE FROM {letters}"),
        broken(tallies, record, f"DELETE FROM {parked}"),
        broken(tallies, call, f"DELETE FROM {calls}"),
    ):
        report = look()

    waits = dict.fromkeys(("postgres dead letters", "postgres parked keys", "calls stuck"), "warning")
    assert (report.code, report.wrong()) == (0, KNOWN | waits)
    assert "1 dead letter to decide about" in report.of("postgres dead letters")[0][1]
    assert "1 key to try again, the oldest waits for 60 min" in report.of("postgres parked keys")[0][1]
    assert "1 call to bank" in report.of("calls stuck")[0][1]


def test_a_schema_that_is_behind(tallies: Tallies, look: Doctor) -> None:
    version = "UPDATE exactly_once_schema_version SET version_num"
    with broken(tallies, f"{version} = '0000'", f"{version} = '0001'"):
        report = look()

    assert (report.code, report.wrong()) == (1, KNOWN | {"postgres schema": "fault"})
    ((_, seen),) = report.of("postgres schema")
    assert "is at migration 0000, 0001_pre_tables is needed" in seen
    assert [verdict for verdict, _ in report.of("postgres tables")] == ["unknown"]


def test_a_table_of_an_earlier_library_and_a_right_that_was_taken_away(tallies: Tallies, look: Doctor) -> None:
    right = "INSERT on exactly_once_inbox"
    with (
        broken(tallies, "ALTER TABLE exactly_once_call RENAME TO away", "ALTER TABLE away RENAME TO exactly_once_call"),
        broken(tallies, f"REVOKE {right} FROM {RUNTIME}", f"GRANT {right} TO {RUNTIME}"),
    ):
        report = look()

    assert (report.code, report.wrong()) == (1, KNOWN | {"postgres tables": "fault", "postgres rights": "fault"})
    ((_, seen),) = report.of("postgres tables")
    assert "exactly_once_call not there" in seen
    ((_, seen),) = report.of("postgres rights")
    assert f"the role {RUNTIME} lacks {right}" in seen


def test_a_transaction_that_somebody_has_left_open(tallies: Tallies, look: Doctor) -> None:
    """The role of the service does not see its state or age, and yet that it stays open."""
    with tallies.held("UPDATE trail SET steps = steps"):
        report = look()

    assert (report.code, report.wrong()) == (0, KNOWN | {"postgres transactions": "warning"})
    ((_, seen),) = report.of("postgres transactions")
    assert "role postgres" in seen
    assert "whose state this role may not see) has had a transaction open for" in seen
    assert "with locks on trail" in seen


def test_a_transaction_that_keeps_others_waiting(tallies: Tallies, look: Doctor) -> None:
    blocked = threading.Thread(target=lambda: tallies.sql("UPDATE trail SET steps = steps"))
    with tallies.held("UPDATE trail SET steps = steps"):
        blocked.start()
        until(lambda: tallies.sql(BLOCKED), "it waits")
        report = look()
    blocked.join()

    assert (report.code, report.wrong()) == (1, KNOWN | {"postgres transactions": "fault"})
    ((_, seen),) = report.of("postgres transactions")
    assert seen.endswith("; 1 session waits for it")


def test_a_table_that_is_locked(tallies: Tallies, look: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs the table is not known, and the lock is why."""
    monkeypatch.setattr(engine, "LOCK_TIMEOUT_MS", 200)
    with tallies.held("LOCK TABLE exactly_once_lane"):
        report = look()

    assert (report.code, report.wrong()["postgres transactions"]) == (1, "fault")
    assert any(
        "locks on exactly_once_lane; nobody else may read" in seen for _, seen in report.of("postgres transactions")
    )
    ((verdict, seen),) = report.of("postgres schema")
    assert (verdict, "SQLSTATE 55P03" in seen) == ("unknown", True)


def test_what_is_broken_in_kafka_one_thing_after_the_other(servers: Servers, root: Path, look: Doctor) -> None:
    with worked(servers, root) as tallies:
        name = f"mallory-{uuid.uuid4().hex[:8]}"
        stranger = Producer({"bootstrap.servers": tallies.settings.kafka_bootstrap_servers, "transactional.id": name})
        stranger.init_transactions(SECONDS_MAX)
        stranger.begin_transaction()
        stranger.produce(tallies.asked.topic, b"{}", b"k")
        assert stranger.flush(SECONDS_MAX) == 0

        report = look(tallies)
        stranger.abort_transaction(SECONDS_MAX)

        assert set(report.wrong()) == {*KNOWN, "kafka transactions"}
        ((_, seen),) = report.of("kafka transactions")
        assert f"{tallies.source} has been held back at offset" in seen
        assert f"by transactional id {name} (producer " in seen

        tallies.forget_group()

        report = look(tallies)

        assert (report.code, report.wrong()) == (1, KNOWN | {"positions": "fault"})
        assert report.of("positions")[0][1].startswith("PositionMissing: ")

        gone = tallies.told.topic
        tallies.admin.delete_topics([gone])[gone].result(SECONDS_MAX)
        until(lambda: topics.describe(tallies.admin, tallies.settings, [gone])[gone] is None, f"{gone} is gone")

        report = look(tallies)

        assert (report.code, report.wrong()) == (1, KNOWN | {"kafka topics": "fault"})
        ((_, seen), *_) = report.of("kafka topics")
        assert f"Kafka has no topic {gone}; create with `python -m services.{tallies.name} topics`" in seen


def elsewhere(tallies: Tallies, old: str, new: str) -> SecretStr:
    url = tallies.settings.database_url.get_secret_value()
    assert old in url
    return SecretStr(url.replace(old, new))


def test_a_database_that_is_down(tallies: Tallies, look: Doctor) -> None:
    port = tallies.servers.postgres.dsn().rpartition(":")[2].partition("/")[0]

    report = look(database_url=elsewhere(tallies, f":{port}/", f":{free_port()}/"))

    assert (report.code, report.wrong()) == (1, _without_postgres(KNOWN) | {"postgres address": "fault"})
    assert "connection refused" in report.of("postgres address")[0][1]
    assert {v for one in report.findings if one["behind"] for v in [one["behind"]]} == {"postgres address"}


def test_a_database_that_is_silent(tallies: Tallies, look: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections and says nothing, as one that is frozen."""
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 2)
    port = tallies.servers.postgres.dsn().rpartition(":")[2].partition("/")[0]
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        report = look(database_url=elsewhere(tallies, f":{port}/", f":{frozen.getsockname()[1]}/"))

    assert report.code == 1
    assert report.wrong()["postgres connection"] == "fault"
    assert "takes connections and does not answer" in next(
        one["mend"] for one in report.findings if one["check"] == "postgres connection"
    )
    assert report.of("kafka topics")[0][0] == "ok", "the other server is looked at all the same"


def test_a_wrong_password(tallies: Tallies, look: Doctor) -> None:
    report = look(database_url=elsewhere(tallies, f"{RUNTIME}:", f"{RUNTIME}:swordfish-"))

    assert (report.code, report.wrong()) == (1, _without_postgres(KNOWN) | {"postgres connection": "fault"})
    assert "password authentication failed" in report.of("postgres connection")[0][1]
    assert "swordfish" not in report.printed


def _without_postgres(known: dict[str, str]) -> dict[str, str]:
    return {check: verdict for check, verdict in known.items() if not check.startswith("postgres")}


def test_kafka_that_is_down(tallies: Tallies, look: Doctor) -> None:
    report = look(kafka_bootstrap_servers=f"127.0.0.1:{free_port()}")

    assert report.code == 1
    assert report.wrong()["kafka address"] == "fault"
    assert report.of("postgres tables")[0][0] == "ok", "the other server is looked at all the same"


# ---- a broker with TLS, passwords and rights


def user(locked: LockedKafka, service: str, *lacks: str) -> dict[str, object]:
    """Make a user with the rights of a worker but those on some topics; return its settings."""
    name = f"doctor-{uuid.uuid4().hex[:8]}"
    kit = trail.make(service)
    locked.user(name, PASSWORD)
    grants = [Grant("topic", topic, "read") for topic in (*kit.service.consumed_topics, kit.service.lane_topic)]
    grants += [Grant("topic", t, "write") for t in (*kit.service.published_topics, kit.service.dead_letter_topic)]
    grants += [Grant("group", service, "read"), Grant("transactional_id", f"{service}-*", "write")]
    locked.grant(name, [grant for grant in grants if grant.name not in lacks])
    return {
        "kafka_bootstrap_servers": locked.password_bootstrap,
        "kafka_security_protocol": "SASL_SSL",
        "kafka_sasl_username": name,
        "kafka_sasl_password": PASSWORD,
        "kafka_ssl_ca_location": locked.authority,
        "database_url": "postgresql://nobody@127.0.0.1:1/none",
    }


def kafka_only(service: str, settings: dict[str, object]) -> list[Finding]:
    case = Case(trail.container(trail.make(service), Settings.model_validate(settings)))
    kafka = [check for check in PATIENT if check.name.split()[0] in ("settings", "kafka")]
    return doctor.examine(case, kafka, 2 * SECONDS_MAX)


@pytest.fixture(scope="module")
def service(locked: LockedKafka) -> str:
    """A service whose topics are on the locked broker."""
    name = f"trail-{uuid.uuid4().hex[:8]}"
    there = {"kafka_bootstrap_servers": locked.bootstrap, "database_url": "x"}
    topics.create_topics(Settings.model_validate(there), trail.make(name).service)
    until(lambda: _shakes_hands(locked), "the broker makes a TLS connection in time: its first takes long")
    return name


@pytest.fixture(scope="module")
def worker(locked: LockedKafka, service: str) -> dict[str, object]:
    """The settings of a user with the rights of a worker."""
    return user(locked, service)


def _shakes_hands(locked: LockedKafka) -> bool:
    host, _, port = locked.password_bootstrap.rpartition(":")
    try:
        return handshake(Address(host, int(port)), locked.authority).refusal is None
    except OSError:
        return False


def verdicts(found: list[Finding], check: str) -> list[str]:
    return [one.verdict for one in found if one.check == check]


def test_a_user_with_the_rights_of_a_worker(service: str, worker: dict[str, object]) -> None:
    found = kafka_only(service, worker)

    assert [one for one in found if one.verdict == "fault" and one.check != "kafka disk"] == []
    told = [(one.verdict, one.seen) for one in found if one.check == "kafka rights"]
    assert [verdict for verdict, _ in told] == ["ok", "ok", "ok"], told
    assert verdicts(found, "kafka certificates") == ["ok"]
    for check in ("kafka settings", "kafka topic settings", "kafka quorum"):
        assert verdicts(found, check) == ["unknown"]
    assert PASSWORD not in repr(found)


def test_a_user_who_may_not_publish(locked: LockedKafka, service: str) -> None:
    lost = f"{service}.told"
    found = kafka_only(service, user(locked, service, lost))

    ((seen, mend),) = [(one.seen, one.mend) for one in found if one.verdict == "fault" and one.check != "kafka disk"]
    assert lost in seen
    assert "WRITE" in f"{seen} {mend}"


def test_a_broker_that_is_not_trusted(service: str, worker: dict[str, object], tmp_path: Path) -> None:
    stranger = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    found = kafka_only(service, {**worker, "kafka_ssl_ca_location": stranger})

    assert verdicts(found, "kafka connection") == ["fault"]
    assert verdicts(found, "kafka certificates") == ["fault"]


def test_tls_where_the_broker_speaks_none(
    locked: LockedKafka, service: str, worker: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "ANSWER_SECONDS", 2.0)
    found = kafka_only(service, {**worker, "kafka_bootstrap_servers": locked.bootstrap})

    assert verdicts(found, "kafka connection") == ["fault"]
    assert verdicts(found, "kafka certificates") == ["fault"]
