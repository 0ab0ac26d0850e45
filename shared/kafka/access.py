"""Classify connection failures. A wrong setting stops the start and is named; a transient failure is retried."""

import logging
import re
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from ..errors import KafkaUnavailable, Misconfigured
from ..service import Service
from ..settings import Settings
from ..telemetry import logs

RIGHTS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "READ on {topic} if the service consumes it, WRITE if it publishes on it",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "READ on the group of the service's name",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "WRITE on the transactional ids of the service: its name-*",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "IDEMPOTENT_WRITE on the cluster",
}
"""Kafka's errors for a missing right, and the right."""

ANSWER_SECONDS = 15.0
"""A broker that does not answer for this long is considered down."""

DENIED_SECONDS = 2.0
"""The client retries by itself, on other brokers too, so one refusal is not final: a restarting broker may break off a
TLS handshake, or not know its users yet.
"""

RECONNECT_MS = 20
"""The first wait before a client connects to the next broker; it doubles. A client connects to one bootstrap server,
learns of the brokers, and connects to them: half of librdkafka's 100 ms passed before each, at every start.
"""

LOOK_AGAIN_SECONDS = 0.01

PRODUCE_MIN = 12
"""Introduced in Kafka 4.0 (KIP-890). Everything here was tested with 4.3."""

_PRODUCE = re.compile(r"(\S+): +ApiKey Produce \(0\) Versions \d+\.\.(\d+)")

_DENIED = {
    KafkaError._AUTHENTICATION: "KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD, KAFKA_SASL_MECHANISM",
    KafkaError._SSL: "KAFKA_SSL_CA_LOCATION, KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CERTIFICATE_LOCATION",
}
"""The client's errors when access is denied, and the settings to check."""

_TLS_ALERT = " alert "
"""As in OpenSSL's `tlsv13 alert certificate required`, `tlsv1 alert unknown ca`."""


def denial(error: KafkaError) -> str | None:
    """Return the settings to check if the brokers denied access, else None."""
    # A broker that refuses our certificate sends an alert, which the client takes for a lost connection.
    code = KafkaError._SSL if _TLS_ALERT in error.str() else error.code()
    return f"{_DENIED[code]}: Kafka does not let us in: {error.str()}" if code in _DENIED else None


def not_permitted(error: KafkaError, topic: str = "each topic") -> Misconfigured | None:
    """Return an error that names the missing right, if one is missing."""
    if error.code() not in RIGHTS:
        return None
    right = RIGHTS[error.code()].format(topic=topic or "each topic")
    return Misconfigured(
        f"Kafka does not permit this service to work: {error.name()}: {error.str()}. Grant it {right}; the list is in "
        "docs/deploying.md"
    )


class _Versions(logging.Handler):
    """Reads the brokers' API versions from librdkafka's log; no call of the client returns them."""

    def __init__(self) -> None:
        super().__init__()
        self.produce: dict[str, int] = {}
        """By broker: the highest version of Produce."""

    def emit(self, record: logging.LogRecord) -> None:
        if found := _PRODUCE.search(record.getMessage()):
            self.produce[found[1]] = int(found[2])


def admin(settings: Settings, service: Service) -> AdminClient:
    """Make an admin client, and check that a broker answers it. It is asked for a topic of `service`, which need not
    exist.

    Raises `Misconfigured` if the brokers deny access, or one is older than Kafka 4.0; `KafkaUnavailable` if none
    answers.
    """
    reported: list[KafkaError] = []
    versions = _Versions()
    options: dict[str, Any] = {
        "socket.timeout.ms": 10_000,
        "reconnect.backoff.ms": RECONNECT_MS,
        "debug": "feature",
        "error_cb": reported.append,
    }
    try:
        client = AdminClient(settings.kafka() | options, logger=logs.of_client("admin", versions))
    except KafkaException as error:  # a file that is no certificate, a key that does not belong to it
        raise Misconfigured(f"KAFKA_SSL_*, KAFKA_SASL_*: {error.args[0].str()}") from None
    topics = TopicCollection([service.lane_topic])
    answer = client.describe_topics(topics, request_timeout=ANSWER_SECONDS)[service.lane_topic]
    denied_at: float | None = None
    deadline = time.monotonic() + ANSWER_SECONDS + 5
    while not answer.done() and time.monotonic() < deadline:
        client.poll(LOOK_AGAIN_SECONDS)
        _refuse_old(versions.produce)
        denials = [reason for error in reported if (reason := denial(error))]
        if denials:
            denied_at = denied_at or time.monotonic()
            if time.monotonic() > denied_at + DENIED_SECONDS and not answer.done():
                raise Misconfigured(denials[-1])
    while client.poll(0):
        pass  # the rest of the log
    _refuse_old(versions.produce)
    failure = answer.exception() if answer.done() else TimeoutError("no answer")
    if failure is not None and not _from_broker(failure):
        details = dict.fromkeys(reason.str() for reason in reported if reason.code() != KafkaError._ALL_BROKERS_DOWN)
        # A broker that expects TLS silently drops a connection without it.
        detail = "; ".join(list(details)[-2:]) or "if so, it may expect another KAFKA_SECURITY_PROTOCOL"
        # It may come back: the process ends, and its supervisor restarts it.
        raise KafkaUnavailable(
            f"KAFKA_BOOTSTRAP_SERVERS: no broker answers at {settings.kafka_bootstrap_servers} with "
            f"KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol}; is one up there? {detail}"
        ) from failure
    return client


def _from_broker(failure: BaseException) -> bool:
    """Return whether a broker gave this error. The client's own codes are negative."""
    return isinstance(failure, KafkaException) and failure.args[0].code() > 0


def cluster_id(client: AdminClient) -> str:
    """Name the cluster. Raises `KafkaUnavailable`.

    By its list of topics: `describe_cluster` ends this process by SIGABRT (librdkafka 2.16.0, rdkafka_admin.c:960) if
    the broker knows of no broker, which happens just after its start, and when the controller has lost sight of all.
    """
    try:
        found = client.list_topics(timeout=ANSWER_SECONDS).cluster_id
    except KafkaException as error:
        raise KafkaUnavailable(f"no broker names the cluster: {error.args[0]}") from error
    if not found:
        raise KafkaUnavailable("no broker names the cluster")
    return str(found)


def _refuse_old(produce: Mapping[str, int]) -> None:
    for broker, version in produce.items():
        if version < PRODUCE_MIN:
            raise Misconfigured(
                f"KAFKA_BOOTSTRAP_SERVERS: the broker {broker} is older than Kafka 4.0 (it knows Produce up to version "
                f"{version}, not {PRODUCE_MIN}); this library was never tested with its transactions"
            )
