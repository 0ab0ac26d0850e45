"""The checks before a process works: its libraries, its database, its topics."""

import time
from typing import NamedTuple

from sqlalchemy import Connection, Engine, text

from ..configuration.program import program
from ..errors import LanesDiffer, Misconfigured, OtherCluster, Stop
from ..kafka.access import admin, cluster_id
from ..kafka.topics import LOOK_AGAIN_SECONDS, describe, needed, whose
from ..postgres.engine import refuse_unsafe
from ..postgres.migrations import refuse_behind
from ..postgres.roles import refuse_without_rights
from ..service import Service
from ..settings import Settings
from ..telemetry.metrics import log

MISSING_SECONDS = 3.0
"""How long a topic must stay absent to count as missing: time to ask another broker, and the same one again later."""


def check_database(engine: Engine, service: Service) -> None:
    """Refuse an unsafe server, a role without its rights, or a schema that is behind."""
    refuse_unsafe(engine)
    refuse_without_rights(engine, service.name)
    refuse_behind(engine, service.name)


class Topics(NamedTuple):
    """The cluster and the topics of a service, as the brokers show them."""

    cluster_id: str
    present: dict[str, tuple[str, int]]
    """Id and number of partitions of each topic that exists."""
    missing: list[str]


def see_topics(settings: Settings, service: Service) -> Topics:
    """Return the cluster and the topics of `service`. Ask again for missing ones: a broker that has just started may
    not know all topics yet. Raises `KafkaUnavailable` or `Misconfigured`.
    """
    client = admin(settings, service)
    found = describe(client, settings, needed(service))
    deadline = time.monotonic() + MISSING_SECONDS
    while None in found.values() and time.monotonic() < deadline:
        time.sleep(10 * LOOK_AGAIN_SECONDS)
        found = describe(client, settings, needed(service))
    return Topics(
        cluster_id(client),
        {name: (str(d.topic_id), len(d.partitions)) for name, d in found.items() if d is not None},
        [name for name, description in found.items() if description is None],
    )


def compare_topics(connection: Connection, settings: Settings, service: Service, seen: Topics) -> dict[str, Stop]:
    """Compare the brokers' answers with the database; return the reasons for a worker to stop, the deepest cause first,
    by source: `cluster`, or the name of a topic.
    """
    known_cluster = connection.execute(text("SELECT cluster_id FROM exactly_once_cluster")).scalar_one_or_none()
    if known_cluster not in (None, seen.cluster_id):
        return {
            "cluster": OtherCluster(
                f"the positions in this database belong to Kafka cluster {known_cluster}, and KAFKA_BOOTSTRAP_SERVERS "
                f"leads to {seen.cluster_id}. Correct the setting; or, to use this cluster from now on: "
                f"`{program(service.name)} positions adopt --target cluster`"
            )
        }
    rows = connection.execute(text("SELECT name, topic_id, partitions FROM exactly_once_topic ORDER BY name")).all()
    lanes = connection.execute(text("SELECT count(*) FROM exactly_once_lane")).scalar_one()
    found: dict[str, Stop] = {}
    differ: dict[str, Stop] = {}
    for name, known_id, known_partitions in rows:
        if name not in seen.present:
            continue
        topic_id, partitions = seen.present[name]
        if topic_id != known_id:
            found[name] = OtherCluster(
                f"topic {name} was deleted and created again; the positions belong to the old one. "
                f"Decide with `{program(service.name)} positions adopt --target {name}`"
            )
        elif partitions != known_partitions and name not in service.consumed_topics:
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
                f"partitions, the database has {lanes} lanes; all must be the same. Correct PARTITIONS, or change the "
                f"lanes with `{program(service.name)} lanes resize`"
            ),
        )
    return found | {name: stop for name, stop in differ.items() if name not in found}


def refuse_missing(service: Service, seen: Topics) -> None:
    """Raise `Misconfigured` if a topic is missing."""
    if seen.missing:
        raise Misconfigured(f"Kafka has no topic {', '.join(seen.missing)}; {whose(service, seen.missing)}")


def look_at_topics(engine: Engine, settings: Settings, service: Service) -> Stop | None:
    """Return the deepest reason to stop that the topics give, if any. Raises what `see_topics` raises."""
    seen = see_topics(settings, service)
    with engine.connect() as connection, connection.begin():
        return next(iter(compare_topics(connection, settings, service, seen).values()), None)


def check_topics(engine: Engine, settings: Settings, service: Service) -> None:
    """Compare the topics with their rows in the database, and store the new ones.

    Raises `Misconfigured` for a missing topic, `LanesDiffer` for a changed number of partitions, `OtherCluster` for
    another cluster or a recreated topic.
    """
    seen = see_topics(settings, service)
    refuse_missing(service, seen)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO exactly_once_cluster (cluster_id) VALUES (:id) ON CONFLICT DO NOTHING"),
            {"id": seen.cluster_id},
        )
        stops = compare_topics(connection, settings, service, seen)
        for name, (topic_id, partitions) in sorted(seen.present.items()) if "cluster" not in stops else ():
            connection.execute(
                text(
                    "INSERT INTO exactly_once_topic (name, topic_id, partitions) VALUES (:name, :id, :partitions) "
                    "ON CONFLICT DO "
                    "NOTHING"
                ),
                {"name": name, "id": topic_id, "partitions": partitions},
            )
    for stop in stops.values():
        raise stop
    log.info("topics_checked", cluster_id=seen.cluster_id, topics=sorted(seen.present), lanes=settings.partitions)
