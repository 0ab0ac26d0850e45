"""What must hold before a process works: its libraries, its database, its topics."""

import time
from collections.abc import Collection
from typing import NamedTuple

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._topic import TopicDescription
from confluent_kafka.cimpl import NewTopic
from sqlalchemy import Connection, Engine, text

from .access import admin, not_permitted
from .database import refuse_unsafe
from .errors import KafkaUnavailable, LanesDiffer, OtherCluster, Refused, Stop
from .handling import Service
from .migrating import refuse_behind
from .program import program
from .roles import refuse_without_rights
from .settings import Settings
from .telemetry import log

LIBRDKAFKA_MIN = 0x021000FF
"""2.16.0: older ones lose offsets or assignments in ways that are listed in docs/decision-table.md."""

ADMIN_SECONDS = 15.0
"""For one question to the brokers."""

LOOK_AGAIN_SECONDS = 0.05

MISSING_SECONDS = 3.0
"""How long a topic must be missing before it is: one question to another broker, and to the same one a little later."""

BROKERS_DEFAULT = -1
"""A replication factor that stands for `default.replication.factor` (KIP-464)."""


def describe(client: AdminClient, settings: Settings, topics: Collection[str]) -> dict[str, TopicDescription | None]:
    """Describe `topics`; None for one that does not exist. Raises `KafkaUnavailable`, or `Refused` when rights are
    missing.
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
                # It may come back: the process ends, and its supervisor starts it again.
                raise KafkaUnavailable(
                    f"KAFKA_BOOTSTRAP_SERVERS: no broker answers at {settings.kafka_bootstrap_servers}; "
                    f"is one up there? {reason.name()}: {reason.str()}"
                ) from error
    return found


def needed(service: Service) -> list[str]:
    """The topics of a service: what it hears and says, its lanes, its dead letters."""
    return sorted({*service.hears, *service.speaks_on, service.lane_topic, service.dead_letter_topic})


def own(service: Service) -> list[str]:
    """The topics that a service publishes on. Those that it hears are of others, with partitions of their choice."""
    return sorted({*service.speaks_on, service.lane_topic, service.dead_letter_topic})


def whose(service: Service, missing: Collection[str]) -> str:
    """Say who creates topics that are missing."""
    mine, others = set(missing) & set(own(service)), sorted(set(missing) - set(own(service)))
    told = [f"create with `{program(service.name)} topics`"] if mine else []
    for name in others:
        owner, _, _ = name.rpartition(".")
        by_name = f": by its name {owner}, with `{program(owner)} topics`" if owner else ""
        told.append(f"{name} is not ours, {service.name} only hears it; whoever publishes on it creates it{by_name}")
    return "; ".join(told)


ENVELOPE_BYTES = 10_000
"""Key, headers and the batch around an event."""

MESSAGE_BYTES_DEFAULT = 1_048_588
"""Kafka's own message.max.bytes, that of a topic without a limit of its own."""


def create_topics(settings: Settings, service: Service, *, heard: bool = True) -> list[str]:
    """Create the topics that are missing, those of others that are `heard` too, and wait until a broker knows them.

    Gives their names. Raises `KafkaUnavailable` if that takes long.
    """
    client = admin(settings)
    wanted = needed(service) if heard else own(service)
    missing = [name for name, found in describe(client, settings, wanted).items() if found is None]
    replicas = settings.replication_factor or BROKERS_DEFAULT
    new = [
        NewTopic(name, settings.partitions, replicas, config=_limits(settings) if name in service.speaks_on else {})
        for name in missing
    ]
    for name, future in client.create_topics(new, request_timeout=ADMIN_SECONDS).items() if new else ():
        try:
            future.result(ADMIN_SECONDS + 5)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another service may have been quicker
                reason = error.args[0]
                raise Refused(f"topic {name} cannot be created: {reason.name()}: {reason.str()}") from error
    # The controller has answered; the brokers learn of it a little later.
    deadline = time.monotonic() + ADMIN_SECONDS
    while missing and None in describe(client, settings, missing).values():
        if time.monotonic() > deadline:
            raise KafkaUnavailable(
                f"topics {', '.join(missing)} were created, but no broker shows them yet; run this again"
            )
        time.sleep(LOOK_AGAIN_SECONDS)
    return missing


def _limits(settings: Settings) -> dict[str, str]:
    """What a topic must let pass that this service publishes on; nothing if it is no more than what topics do."""
    needs = settings.event_bytes_max + ENVELOPE_BYTES
    return {"max.message.bytes": str(needs)} if needs > MESSAGE_BYTES_DEFAULT else {}


def missing(settings: Settings, service: Service) -> list[str]:
    """Name the topics that `service` needs and that are not there."""
    return [name for name, found in describe(admin(settings), settings, needed(service)).items() if found is None]


def check_libraries() -> None:
    """Refuse a Kafka client that is too old."""
    version, number = confluent_kafka.libversion()
    if number < LIBRDKAFKA_MIN:
        raise Refused(f"librdkafka {version} is too old; install confluent-kafka >= 2.16")


def check_database(engine: Engine, service: Service) -> None:
    """Refuse an unsafe server, a role without its rights, or a schema that is behind."""
    refuse_unsafe(engine)
    refuse_without_rights(engine, service.name)
    refuse_behind(engine, service.name)


class Topics(NamedTuple):
    """The cluster and the topics of a service, as the brokers show them."""

    cluster_id: str
    present: dict[str, tuple[str, int]]
    """Id and number of partitions of each that is there."""
    missing: list[str]


def see_topics(settings: Settings, service: Service) -> Topics:
    """Ask for the cluster and the topics of `service`. What is missing is asked for again: a broker that has just
    started may not know all topics yet. Raises `KafkaUnavailable` or `Refused`.
    """
    client = admin(settings)
    found = describe(client, settings, needed(service))
    deadline = time.monotonic() + MISSING_SECONDS
    while None in found.values() and time.monotonic() < deadline:
        time.sleep(10 * LOOK_AGAIN_SECONDS)
        found = describe(client, settings, needed(service))
    try:
        cluster = client.describe_cluster(request_timeout=ADMIN_SECONDS).result(ADMIN_SECONDS + 5)
    except KafkaException as error:
        raise KafkaUnavailable(f"which cluster this is: {error.args[0]}") from error
    return Topics(
        cluster.cluster_id,
        {name: (str(d.topic_id), len(d.partitions)) for name, d in found.items() if d is not None},
        [name for name, description in found.items() if description is None],
    )


def judge_topics(connection: Connection, settings: Settings, service: Service, seen: Topics) -> dict[str, Stop]:
    """Compare what the brokers show with what the database knows of it; give what a worker must stop for, the deepest
    cause first, by source: `cluster`, or the name of a topic.
    """
    known_cluster = connection.execute(text("SELECT cluster_id FROM cluster")).scalar_one_or_none()
    if known_cluster not in (None, seen.cluster_id):
        return {
            "cluster": OtherCluster(
                f"the positions in this database are of Kafka cluster {known_cluster}, KAFKA_BOOTSTRAP_SERVERS leads "
                f"to {seen.cluster_id}. "
                f"Correct the setting; or, if this cluster shall be used from now on: "
                f"`{program(service.name)} positions adopt --source cluster`"
            )
        }
    rows = connection.execute(text("SELECT name, topic_id, partitions FROM topic ORDER BY name")).all()
    lanes = connection.execute(text("SELECT count(*) FROM lane")).scalar_one()
    found: dict[str, Stop] = {}
    differ: dict[str, Stop] = {}
    for name, known_id, known_partitions in rows:
        if name not in seen.present:
            continue
        topic_id, partitions = seen.present[name]
        if topic_id != known_id:
            found[name] = OtherCluster(
                f"topic {name} was deleted and created again; the positions are of the old one. "
                f"Decide with `{program(service.name)} positions adopt --source {name}`"
            )
        elif partitions != known_partitions and name not in service.hears:
            differ[name] = LanesDiffer(
                f"topic {name} had {known_partitions} partitions and has {partitions} now: keys have moved, and with "
                f"them their order. Decide with `{program(service.name)} lanes resize`"
            )
    lane_topic = service.lane_topic
    if lane_topic in seen.present and not lanes == seen.present[lane_topic][1] == settings.partitions:
        differ.setdefault(
            lane_topic,
            LanesDiffer(
                f"PARTITIONS is {settings.partitions}, topic {lane_topic} has {seen.present[lane_topic][1]} "
                f"partitions, the database has {lanes} lanes; all must be the same. Correct PARTITIONS, or make it so "
                f"with `{program(service.name)} lanes resize`"
            ),
        )
    return found | {name: stop for name, stop in differ.items() if name not in found}


def refuse_missing(service: Service, seen: Topics) -> None:
    """Raise `Refused` if a topic is missing."""
    if seen.missing:
        raise Refused(f"Kafka has no topic {', '.join(seen.missing)}; {whose(service, seen.missing)}")


def look_at_topics(engine: Engine, settings: Settings, service: Service) -> Stop | None:
    """Give what the topics are a reason to stop for, the deepest cause first. Raises what `see_topics` raises."""
    seen = see_topics(settings, service)
    with engine.connect() as connection, connection.begin():
        return next(iter(judge_topics(connection, settings, service, seen).values()), None)


def check_topics(engine: Engine, settings: Settings, service: Service) -> None:
    """Compare the topics with what the database knows of them, and remember those that are new.

    Raises `Refused` for a missing topic, `LanesDiffer` for a number of partitions that changed, `OtherCluster` for
    another cluster or a recreated topic.
    """
    seen = see_topics(settings, service)
    refuse_missing(service, seen)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO cluster (cluster_id) VALUES (:id) ON CONFLICT DO NOTHING"), {"id": seen.cluster_id}
        )
        stops = judge_topics(connection, settings, service, seen)
        for name, (topic_id, partitions) in sorted(seen.present.items()) if "cluster" not in stops else ():
            connection.execute(
                text(
                    "INSERT INTO topic (name, topic_id, partitions) VALUES (:name, :id, :partitions) ON CONFLICT DO "
                    "NOTHING"
                ),
                {"name": name, "id": topic_id, "partitions": partitions},
            )
    for stop in stops.values():
        raise stop
    log.info("topics_checked", cluster_id=seen.cluster_id, topics=sorted(seen.present), lanes=settings.partitions)
