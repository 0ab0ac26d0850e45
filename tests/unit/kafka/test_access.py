"""A broker that knows of no broker, as one does that has just started, is waited for; it ends no process."""

import socket
import struct
import threading
from collections.abc import Iterator
from io import BufferedRWPair

import pytest

from shared.errors import KafkaUnavailable
from shared.kafka import access, ended_transactions
from shared.operations.group import Group
from shared.settings import Settings
from tests.faults import trail

SERVICE = trail.make("lonely").service
PRODUCE, METADATA, API_VERSIONS = 0, 3, 18
NO_RIGHTS_ASKED = 0x80000000
UNKNOWN_TOPIC = 3


class LonelyBroker:
    """Speaks two requests of Kafka's protocol. It names itself as the only broker, and none once it is `alone`."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.alone = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # the test is over
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            while head := stream.read(4):
                self._answer(stream, stream.read(struct.unpack(">i", head)[0]))

    def _answer(self, stream: BufferedRWPair, request: bytes) -> None:
        api, _, correlation, client = struct.unpack(">hhih", request[:10])
        body = _api_versions() if api == API_VERSIONS else self._metadata(request[10 + client :])
        answer = struct.pack(">i", correlation) + body
        stream.write(struct.pack(">i", len(answer)) + answer)
        stream.flush()

    def _metadata(self, asked: bytes) -> bytes:
        """Metadata version 8: throttle time, brokers, cluster id, controller, topics, rights."""
        (count,) = struct.unpack(">i", asked[:4])
        names, at = b"", 4
        for _ in range(max(count, 0)):
            end = at + 2 + struct.unpack(">h", asked[at : at + 2])[0]
            names += struct.pack(">h", UNKNOWN_TOPIC) + asked[at:end] + struct.pack(">biI", 0, 0, NO_RIGHTS_ASKED)
            at = end
        mine = struct.pack(">ih9sih", 1, 9, b"127.0.0.1", self.port, -1) if not self.alone else b""
        cluster = struct.pack(">h4si", 4, b"some", -1 if self.alone else 1)
        topics = struct.pack(">i", max(count, 0)) + names
        return struct.pack(">ii", 0, int(not self.alone)) + mine + cluster + topics + struct.pack(">I", NO_RIGHTS_ASKED)


def _api_versions() -> bytes:
    spoken = ((PRODUCE, 3, 13), (METADATA, 4, 8), (API_VERSIONS, 0, 4))
    ranges = b"".join(struct.pack(">hhhB", *versions, 0) for versions in spoken)
    return struct.pack(">hB", 0, len(spoken) + 1) + ranges + struct.pack(">iB", 0, 0)


@pytest.fixture
def broker() -> Iterator[LonelyBroker]:
    made = LonelyBroker()
    with made.listener:
        yield made


@pytest.fixture
def settings(broker: LonelyBroker) -> Settings:
    return Settings.model_validate(
        {
            "kafka_bootstrap_servers": f"127.0.0.1:{broker.port}",
            "kafka_security_protocol": "PLAINTEXT",
            "database_url": "postgresql+psycopg://nobody@127.0.0.1:1/{service}",
        }
    )


def test_it_is_asked_for_the_cluster(broker: LonelyBroker, settings: Settings) -> None:
    """`DescribeCluster` of librdkafka ended both workers of a service by SIGABRT, in a storm that killed brokers."""
    client = access.admin(settings, SERVICE)
    assert access.cluster_id(client) == "some"
    broker.alone = True
    with pytest.raises(KafkaUnavailable, match="_PARTIAL"):
        access.cluster_id(client)


def test_a_command_asks_it_for_the_cluster(broker: LonelyBroker, settings: Settings) -> None:
    with Group(settings, SERVICE) as group:
        assert group.cluster_id() == "some"
        broker.alone = True
        with pytest.raises(KafkaUnavailable, match="_PARTIAL"):
            group.cluster_id()


def test_a_producer_that_is_renewed_asks_it(broker: LonelyBroker, settings: Settings) -> None:
    broker.alone = True
    with pytest.raises(KafkaUnavailable):
        ended_transactions.see_ended(settings, SERVICE, 0.1)
