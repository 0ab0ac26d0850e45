"""The topics of a service: described, checked and created."""

import time
from collections.abc import Collection

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._topic import TopicDescription
from confluent_kafka.cimpl import NewTopic

from ..configuration.program import program
from ..errors import KafkaUnavailable, Misconfigured
from ..service import Service
from ..settings import Settings
from .access import admin, not_permitted

LIBRDKAFKA_MIN = 0x021000FF
"""2.16.0: older versions lose offsets or assignments in ways listed in docs/decision-table.md."""


ADMIN_SECONDS = 15.0
"""Timeout of one request to the brokers."""


LOOK_AGAIN_SECONDS = 0.05


BROKERS_DEFAULT = -1
"""A replication factor that stands for `default.replication.factor` (KIP-464)."""


def describe(client: AdminClient, settings: Settings, topics: Collection[str]) -> dict[str, TopicDescription | None]:
    """Describe `topics`; None for one that does not exist. Raises `KafkaUnavailable`, or `Misconfigured` when rights
    are missing.
    """
    found: dict[str, TopicDescription | None] = {}
    for name, future in client.describe_topics(TopicCollection(sorted(topics)), request_timeout=ADMIN_SECONDS).items():
        try:
            found[name] = future.result(ADMIN_SECONDS + 5)
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if reason.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                found[name] = None
            elif refused := not_permitted(reason, name):
                raise refused from error
            else:
                # It may come back: the process ends, and its supervisor restarts it.
                raise KafkaUnavailable(
                    f"KAFKA_BOOTSTRAP_SERVERS: no broker answers at {settings.kafka_bootstrap_servers}; "
                    f"is one up there? {reason.name()}: {reason.str()}"
                ) from error
    return found


def needed(service: Service) -> list[str]:
    """Return the topics of a service: those it consumes and publishes on, its lanes, its dead letters."""
    return sorted({*service.consumed_topics, *service.published_topics, service.lane_topic, service.dead_letter_topic})


def own(service: Service) -> list[str]:
    """Return the topics that a service publishes on. Others own those it consumes, and choose their partitions."""
    return sorted({*service.published_topics, service.lane_topic, service.dead_letter_topic})


def whose(service: Service, missing: Collection[str]) -> str:
    """Say who has to create the missing topics."""
    mine, others = set(missing) & set(own(service)), sorted(set(missing) - set(own(service)))
    parts = [f"create with `{program(service.name)} topics`"] if mine else []
    for name in others:
        owner, _, _ = name.rpartition(".")
        by_name = f" (judging by the name, {owner}: `{program(owner)} topics`)" if owner else ""
        parts.append(f"{service.name} only consumes {name}; the service that publishes on it creates it{by_name}")
    return "; ".join(parts)


ENVELOPE_BYTES = 10_000
"""Key, headers and the batch around an event."""


MESSAGE_BYTES_DEFAULT = 1_048_588
"""Kafka's default message.max.bytes, for a topic without its own limit."""


def create_topics(settings: Settings, service: Service, *, consumed: bool = True) -> list[str]:
    """Create the missing topics, with `consumed` also those of others, and wait until a broker knows them.

    Returns their names. Raises `KafkaUnavailable` if that takes too long.
    """
    client = admin(settings, service)
    wanted = needed(service) if consumed else own(service)
    missing = [name for name, found in describe(client, settings, wanted).items() if found is None]
    replicas = settings.replication_factor or BROKERS_DEFAULT
    new = [
        NewTopic(
            name, settings.partitions, replicas, config=_limits(settings) if name in service.published_topics else {}
        )
        for name in missing
    ]
    for name, future in client.create_topics(new, request_timeout=ADMIN_SECONDS).items() if new else ():
        try:
            future.result(ADMIN_SECONDS + 5)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another service may have been quicker
                reason = error.args[0]
                raise Misconfigured(f"topic {name} cannot be created: {reason.name()}: {reason.str()}") from error
    # The controller has answered; the brokers learn of the topics a little later.
    deadline = time.monotonic() + ADMIN_SECONDS
    while missing and None in describe(client, settings, missing).values():
        if time.monotonic() > deadline:
            raise KafkaUnavailable(
                f"topics {', '.join(missing)} were created, but no broker shows them yet; run this again"
            )
        time.sleep(LOOK_AGAIN_SECONDS)
    return missing


def _limits(settings: Settings) -> dict[str, str]:
    """Return the size limit of a topic that this service publishes on; nothing if the default is enough."""
    needs = settings.event_bytes_max + ENVELOPE_BYTES
    return {"max.message.bytes": str(needs)} if needs > MESSAGE_BYTES_DEFAULT else {}


def missing(settings: Settings, service: Service) -> list[str]:
    """Return the topics that `service` needs and that do not exist."""
    return [
        name for name, found in describe(admin(settings, service), settings, needed(service)).items() if found is None
    ]


def check_libraries() -> None:
    """Refuse a Kafka client that is too old."""
    version, number = confluent_kafka.libversion()
    if number < LIBRDKAFKA_MIN:
        raise Misconfigured(f"librdkafka {version} is too old; install confluent-kafka >= 2.16")
