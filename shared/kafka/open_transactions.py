"""The owner of an open transaction, as the brokers report it: its producer, its transactional id, and since when.

This takes the three requests of KIP-664, which librdkafka's admin client lacks and kafka-python's has. It is imported
only when it is needed, as when an input is held back: importing takes half a second and 10 MB.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..protocol.ports import Input
from ..settings import Settings

ANSWER_MS = 3_000
"""Timeout for one answer or one connection; a broker takes milliseconds."""

ALL_SECONDS = 10.0
"""After this, stop asking: many partitions may be held back, and many brokers may not answer."""

DETAIL_MAX = 200
"""Characters kept of an error, and of a transactional id, which others choose."""

RIGHT = "this user may lack the right DESCRIBE on the transactional ids of others, see docs/deploying.md"

ENDED = frozenset({"Empty", "CompleteCommit", "CompleteAbort", "Dead"})
"""The coordinator's states of a transaction that is over."""


@dataclass
class Holder:
    """The producer that holds a partition back. What the brokers do not report stays empty; `unknown` says why."""

    producer_id: int | None = None
    epoch: int = -1
    transactional_id: str = ""
    state: str = ""
    """As its transaction coordinator reports it."""
    began: datetime | None = None
    """When its transaction began, by the coordinator's clock."""
    timeout_seconds: float = 0.0
    unknown: str = "no broker was asked"

    def __str__(self) -> str:
        if self.producer_id is None:
            return f"an open transaction of an unknown producer ({self.unknown})"
        producer = f"producer {self.producer_id}, epoch {self.epoch}"
        if not self.transactional_id:
            return f"an open transaction of {producer}, whose transactional id is unknown ({self.unknown})"
        if not self.state:
            facts = f"its state is unknown: {self.unknown}"
        elif self.state in ENDED:
            facts = f"{self.state}: it has ended, and its end was never written here"
        else:
            facts = f"{self.state}, with a timeout of {self.timeout_seconds:.0f} s"
        return f"transactional id {self.transactional_id} ({producer}; {facts})"


def holders(settings: Settings, client_id: str, held: Mapping[Input, int]) -> dict[Input, Holder]:
    """Ask who holds these inputs back at these offsets. Takes a little over `ALL_SECONDS` at most; never raises."""
    deadline = time.monotonic() + ALL_SECONDS
    found = {source: Holder() for source in held}
    try:
        with client(settings, client_id) as admin:
            for source, holder in found.items():
                try:
                    _ask(admin, source, held[source], holder, deadline)
                except Exception as error:  # noqa: BLE001 - an older broker, a newer one, a right that is missing
                    holder.unknown = _words(error)
    except Exception as error:  # noqa: BLE001 - no broker answers, or access is denied
        for holder in found.values():
            holder.unknown = _words(error)
    return found


def configuration(settings: Settings) -> dict[str, Any]:
    """Return the settings of `Settings.kafka` under kafka-python's names."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers.split(","),
        "security_protocol": settings.kafka_security_protocol,
        "ssl_cafile": settings.kafka_ssl_ca_location,
        "ssl_certfile": settings.kafka_ssl_certificate_location,
        "ssl_keyfile": settings.kafka_ssl_key_location,
        "ssl_password": settings.kafka_ssl_key_password.get_secret_value(),
    }
    if settings.kafka_security_protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": settings.kafka_sasl_password.get_secret_value(),
        }
    return {name: value for name, value in options.items() if value}


def load() -> None:
    """Import kafka-python now, so that what asks by a clock does not wait for it."""
    import kafka.admin  # noqa: F401


@contextmanager
def client(settings: Settings, client_id: str) -> Iterator[Any]:
    """Make a client for this block. Raises any error of kafka-python."""
    # At debug level it would log its configuration, with the password; and failures are reported in our own words.
    logging.getLogger("kafka").setLevel(logging.CRITICAL + 1)
    from kafka.admin import KafkaAdminClient
    from kafka.net.compat import KafkaNetClient

    made = []

    def network(**given: Any) -> Any:
        made.append(KafkaNetClient(**given, socket_connection_setup_timeout_ms=ANSWER_MS))
        return made[-1]

    try:
        yield KafkaAdminClient(
            **configuration(settings),
            client_id=client_id,
            request_timeout_ms=ANSWER_MS,
            bootstrap_timeout_ms=ANSWER_MS,
            kafka_client=network,
        )
    finally:
        # Not the admin client's own `close`: if no broker answers there is no admin client, but already a thread.
        for client in made:
            client.close()


def _ask(admin: Any, source: Input, offset: int, holder: Holder, deadline: float) -> None:
    """Fill in `holder`, as far as the brokers answer. Raises any error of kafka-python."""
    from kafka.structs import TopicPartition

    if time.monotonic() > deadline:
        holder.unknown = "there was no time to ask"
        return
    partition = TopicPartition(*source)
    producers = admin.describe_producers([partition])[partition].active_producers
    # The first open transaction is the one that holds back.
    open_now = [p for p in producers if 0 <= p.current_transaction_start_offset <= offset]
    if not open_now:
        holder.unknown = "its leader knows of no transaction that is open there now"
        return
    first = min(open_now, key=lambda p: int(p.current_transaction_start_offset))
    holder.producer_id, holder.epoch = first.producer_id, first.producer_epoch
    transactional_id, holder.unknown = _transactional_id(admin, first.producer_id, deadline)
    if not transactional_id:
        return
    holder.transactional_id = plain(transactional_id)
    described = admin.describe_transactions([transactional_id])[transactional_id]
    holder.state = described.state.value
    holder.timeout_seconds = described.transaction_timeout_ms / 1_000
    if described.transaction_start_time_ms > 0:
        holder.began = datetime.fromtimestamp(described.transaction_start_time_ms / 1_000, UTC)


def _transactional_id(admin: Any, producer_id: int, deadline: float) -> tuple[str, str]:
    """Ask all brokers, as each coordinates a share; return the id, or why it is unknown."""
    unknown = [RIGHT]
    for broker in (found["broker_id"] for found in admin.describe_cluster()["brokers"]):
        if time.monotonic() > deadline:
            unknown.append("there was no time to ask all brokers")
            break
        try:
            listed = admin.list_transactions(broker_ids=[broker], producer_id_filters=[producer_id])[broker]
        except Exception as error:  # noqa: BLE001 - another broker may have it
            unknown.append(f"broker {broker}: {_words(error)}")
            continue
        for found in listed:
            return found.transactional_id, ""
    return "", "; ".join(unknown)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:DETAIL_MAX]


def plain(value: bytes | str | None) -> str:
    """Return foreign text in a form that is safe for a terminal and a log."""
    raw = value if isinstance(value, bytes) else (value or "").encode(errors="replace")
    words = raw[:DETAIL_MAX].decode("ascii", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in words)
