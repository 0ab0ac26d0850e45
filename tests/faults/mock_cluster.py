"""librdkafka's own mock cluster: brokers in this process that answer with the errors a test asks for.

It is part of the library in the confluent-kafka wheel. Its brokers speak the protocol but keep no promise: they do not
isolate transactions, and two producers with one transactional.id may both commit. So it shows how the *client* takes an
error, and nothing about the guarantee.

Source of all names and numbers: librdkafka's src/rdkafka_mock.h.
"""

import ctypes
from enum import IntEnum
from types import TracebackType
from typing import Self

from dev.librdkafka import INT, POINTER, SIZE, TEXT, destroy, function, producer

_i16 = ctypes.c_int16
_broker = (POINTER, ctypes.c_int32)

_cluster_new = function("mock_cluster_new", POINTER, POINTER, INT)
_cluster_destroy = function("mock_cluster_destroy", None, POINTER)
_bootstraps = function("mock_cluster_bootstraps", TEXT, POINTER)
_rebalance_delay = function("mock_group_initial_rebalance_delay_ms", None, POINTER, ctypes.c_int32)
_topic_create = function("mock_topic_create", INT, POINTER, TEXT, INT, INT)
_push = function("mock_push_request_errors_array", None, POINTER, _i16, SIZE, ctypes.POINTER(INT))
_clear = function("mock_clear_request_errors", None, POINTER, _i16)
_push_rtts = function("mock_broker_push_request_error_rtts", INT, *_broker, _i16, SIZE)  # and pairs of error, rtt
_stack_count = function("mock_broker_error_stack_cnt", INT, *_broker, _i16, ctypes.POINTER(SIZE))
_set_down = function("mock_broker_set_down", INT, *_broker)
_set_up = function("mock_broker_set_up", INT, *_broker)
_leader_set = function("mock_partition_set_leader", INT, POINTER, TEXT, ctypes.c_int32, ctypes.c_int32)
_coordinator_set = function("mock_coordinator_set", INT, POINTER, TEXT, TEXT, ctypes.c_int32)

ENDLESS = 100_000
"""More requests of one kind than any client sends in a test."""


class Api(IntEnum):
    """Requests by their key in Kafka's protocol."""

    Produce = 0
    ListOffsets = 2
    OffsetFetch = 9
    FindCoordinator = 10
    InitProducerId = 22
    AddPartitionsToTxn = 24
    AddOffsetsToTxn = 25
    EndTxn = 26
    TxnOffsetCommit = 28


class MockCluster:
    """Brokers with the ids 1, 2, ...; they live until the context ends."""

    def __init__(self, brokers: int = 1) -> None:
        self._client = producer({"log_level": "0"})  # it has no broker to talk to itself
        self._cluster = _cluster_new(self._client, brokers)
        self.bootstrap: str = _bootstraps(self._cluster).decode()
        _rebalance_delay(self._cluster, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _cluster_destroy(self._cluster)
        destroy(self._client)

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic; broker 1 leads it."""
        _succeed(_topic_create(self._cluster, name.encode(), partitions, 1))
        for partition in range(partitions):
            _succeed(_leader_set(self._cluster, name.encode(), partition, 1))

    def answer(self, api: Api, error: int, *, broker: int = 1, rtt_ms: int = 0) -> None:
        """Let `broker` answer the next request of a kind with `error` (0: none), and so many ms later.

        An error of the client's own, _TRANSPORT, cuts the connection instead. From then on `answer_always` has no
        effect for this broker and kind.
        """
        _succeed(_push_rtts(self._cluster, broker, api, 1, INT(error), INT(rtt_ms)))

    def unused(self, api: Api, *, broker: int = 1) -> int:
        """Return how many of these answers are not given yet."""
        count = SIZE()
        _succeed(_stack_count(self._cluster, broker, api, ctypes.byref(count)))
        return count.value

    def answer_always(self, api: Api, error: int) -> None:
        """Let every broker answer every request of a kind with `error`, until `heal`."""
        _push(self._cluster, api, ENDLESS, (INT * ENDLESS)(*[error] * ENDLESS))

    def heal(self, api: Api) -> None:
        """End `answer_always`."""
        _clear(self._cluster, api)

    def down(self, broker: int) -> None:
        """Close a broker's connections, and accept no new ones."""
        _succeed(_set_down(self._cluster, broker))

    def up(self, broker: int) -> None:
        """Let a broker accept connections again."""
        _succeed(_set_up(self._cluster, broker))

    def wake(self) -> None:
        """Let clients see an event: some wait for nothing else."""
        self.down(1)
        self.up(1)

    def coordinate(self, kind: str, key: str, broker: int) -> None:
        """Make `broker` the coordinator of the `group` or `transaction` with this name."""
        _succeed(_coordinator_set(self._cluster, kind.encode(), key.encode(), broker))


def _succeed(code: int) -> None:
    assert code == 0, f"librdkafka answers {code}"
