"""The embedded servers keep what was committed when killed, and leave nothing when we are."""

import hashlib
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from dev.servers import Cluster, Kafka, Postgres, ServerError, Servers, java, places, running_cluster
from dev.servers.jars import kafka_jars
from dev.servers.process import PortTaken

pytestmark = pytest.mark.proof

ROOT = Path(__file__).parents[2]
WAIT_SECONDS_MAX = 20.0


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def write(kafka: Kafka | Cluster, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True})
    producer.produce(topic, value)
    assert producer.flush(WAIT_SECONDS_MAX) == 0


def read(kafka: Kafka | Cluster, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap, "group.id": topic, "auto.offset.reset": "earliest", "log_level": 0}
    )
    try:
        consumer.subscribe([topic])
        return [message.value() for message in consumer.consume(count, WAIT_SECONDS_MAX)]
    finally:
        consumer.close()


@pytest.fixture
def topic(breakable_servers: Servers) -> str:
    name = f"test-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": breakable_servers.kafka.bootstrap})
    admin.create_topics([NewTopic(name, num_partitions=1)])[name].result(WAIT_SECONDS_MAX)
    return name


@pytest.fixture
def database(breakable_servers: Servers) -> str:
    name = f"test-{uuid.uuid4().hex}"
    breakable_servers.postgres.create_database(name)
    with psycopg.connect(breakable_servers.postgres.dsn(name)) as connection:
        connection.execute("CREATE TABLE note (text text)")
    return name


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((places.HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_killed_kafka_has_its_records_and_its_address_when_it_is_back(breakable_servers: Servers, topic: str) -> None:
    kafka = breakable_servers.kafka
    before = kafka.bootstrap
    write(kafka, topic, b"first")
    kafka.kill()
    assert not kafka.running
    kafka.start()
    assert kafka.bootstrap == before
    write(kafka, topic, b"second")
    assert read(kafka, topic, 2) == [b"first", b"second"]


def test_a_frozen_kafka_is_silent_until_it_is_thawed(breakable_servers: Servers) -> None:
    admin = AdminClient({"bootstrap.servers": breakable_servers.kafka.bootstrap, "log_level": 0})
    breakable_servers.kafka.freeze()
    with pytest.raises(KafkaException):
        admin.list_topics(timeout=0.5)
    breakable_servers.kafka.thaw()
    assert admin.list_topics(timeout=WAIT_SECONDS_MAX).brokers


def test_a_cluster_of_three_goes_on_when_one_broker_is_killed() -> None:
    with running_cluster() as servers:
        cluster, name = servers.kafka, f"test-{uuid.uuid4().hex}"
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
        admin.create_topics([NewTopic(name, 3, 3)])[name].result(WAIT_SECONDS_MAX)
        write(cluster, name, b"before")
        cluster.brokers[0].kill()
        write(cluster, name, b"meanwhile")
        cluster.brokers[0].start()
        cluster.brokers[1].kill()
        write(cluster, name, b"after")
        assert sorted(filter(None, read(cluster, name, 3))) == [b"after", b"before", b"meanwhile"]


@pytest.mark.parametrize("way", ["kill", "immediate", "fast"])
def test_postgres_has_what_was_committed_when_it_is_back(breakable_servers: Servers, database: str, way: str) -> None:
    postgres = breakable_servers.postgres
    with psycopg.connect(postgres.dsn(database)) as connection:
        connection.execute("INSERT INTO note VALUES ('committed')")
    with psycopg.connect(postgres.dsn(database)) as open_connection:
        open_connection.execute("INSERT INTO note VALUES ('not committed')")
        if way == "kill":
            postgres.kill()
            assert not postgres.running
            postgres.start()
        else:
            postgres.restart("immediate" if way == "immediate" else "fast")
        with pytest.raises(psycopg.OperationalError):
            open_connection.execute("SELECT 1")
    with psycopg.connect(postgres.dsn(database)) as connection:
        assert connection.execute("SELECT text FROM note").fetchall() == [("committed",)]


def test_postgres_keeps_its_commits_by_the_rules(breakable_servers: Servers) -> None:
    with psycopg.connect(breakable_servers.postgres.dsn()) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute(f"SHOW {setting}".encode()).fetchone() == ("on",)


def test_a_server_outlives_the_thread_that_started_it(breakable_servers: Servers) -> None:
    postgres = breakable_servers.postgres
    postgres.kill()
    thread = threading.Thread(target=postgres.start)
    thread.start()
    thread.join()
    with psycopg.connect(postgres.dsn()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


PARENT = """
import sys, psutil
from dev.servers import running
with running() as servers:
    processes = psutil.Process().children(recursive=True)
    print(servers.kafka.directory.parent, *(process.pid for process in processes), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("victim", ["parent", "guards"])
def test_nothing_is_left_of_servers_whose_user_is_killed(victim: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout
        directory, *pids = parent.stdout.readline().split()
        processes = list(map(int, pids))
        assert len(processes) > 8, "two guards, Kafka, and PostgreSQL with its children"
        if victim == "guards":
            for guard in psutil.Process(parent.pid).children():
                guard.kill()
            if sys.platform != "linux":
                pytest.skip("only Linux tells a child of the death of its parent")
        else:
            parent.kill()
        assert eventually(lambda: all(map(gone, processes)))
        if victim == "parent":
            assert eventually(lambda: not Path(directory).exists())
        else:
            parent.communicate("")
            assert not Path(directory).exists(), "the parent, alive, has removed the data itself"


@pytest.mark.parametrize("server", [Kafka, Postgres])
def test_a_port_asked_for_and_taken_is_named(server: type[Kafka | Postgres], taken_port: int) -> None:
    with pytest.raises(PortTaken, match=f"port {taken_port}, wanted for .*, is taken"), server(port=taken_port):
        pass


@pytest.mark.parametrize("server", [Kafka, Postgres])
def test_another_port_is_chosen_when_the_first_was_taken_meanwhile(
    server: type[Kafka | Postgres], taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([taken_port])
    choose = places.free_port
    monkeypatch.setattr(places, "free_port", lambda: next(answers, None) or choose())
    with server() as started:
        assert started.running
        address = started.bootstrap if isinstance(started, Kafka) else started.dsn()
        assert f":{taken_port}" not in address


def test_a_server_that_cannot_start_shows_its_log() -> None:
    with pytest.raises(ServerError, match=r"(?s)Kafka's controller ended before.*kafka\.log.*no\.such\.Class"):
        Kafka(settings={"authorizer.class.name": "no.such.Class"}).start()


def test_a_jar_that_is_not_the_listed_one_is_refused(tmp_path: Path) -> None:
    path = "org/example/thing/1.0/thing-1.0.jar"
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(b"expected")
    lock = tmp_path / "lock.sha256"
    lock.write_text(f"{hashlib.sha256(b'expected').hexdigest()}  {path}\n")
    assert kafka_jars(lock=lock, root=tmp_path) == [tmp_path / path]

    (tmp_path / path).write_bytes(b"something else")
    with pytest.raises(ServerError, match=r"thing-1\.0\.jar is not the file that kafka\.sha256 lists"):
        kafka_jars(lock=lock, root=tmp_path)


@pytest.mark.timeout(300)
def test_what_kafka_loads_is_recorded_once_and_then_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jars = places.cache() / "maven"
    (tmp_path / "exactly-once").mkdir()
    (tmp_path / "exactly-once" / "maven").symlink_to(jars)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    echoed: list[str] = []
    assert not any("AOTCache" in str(word) for word in java.command())

    java.record(echoed.append)
    java.record(echoed.append)

    assert len(echoed) == 1
    assert [path.name for path in java.recording().parent.iterdir()] == [java.recording().name]

    def told(*more: str) -> str:
        words = [*java.command(), *more, "-Xlog:aot", "kafka.tools.StorageTool", "random-uuid"]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=WAIT_SECONDS_MAX).stdout

    assert "Using AOT-linked classes: true" in told("-XX:AOTMode=on")
    java.recording().write_bytes(b"cut off")
    assert len(told().splitlines()[-1]) == 22, "it starts all the same"


def test_jars_are_fetched_also_where_a_recording_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may have been removed, and the recording not."""
    asked: list[object] = []

    def note(report: object) -> list[Path]:
        asked.append(report)
        return []

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(java, "kafka_jars", note)
    java.recording().parent.mkdir(parents=True)
    java.recording().touch()
    java.record()
    assert len(asked) == 1


def test_a_cluster_id_may_begin_with_a_hyphen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=b"\xfb" * 16))
    with Kafka(report=lambda _: None) as kafka:
        client = AdminClient({"bootstrap.servers": kafka.bootstrap})
        assert str(client.list_topics(timeout=WAIT_SECONDS_MAX).cluster_id).startswith("-")
