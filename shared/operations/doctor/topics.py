"""The topics of a service: what is there, and with which settings."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.admin._topic import TopicDescription

from ...errors import Misconfigured
from ...kafka.topics import ENVELOPE_BYTES
from ...service import Service
from ...settings import Settings
from ...worker import startup
from .brokers import ANSWER_SECONDS, not_shown
from .case import Case
from .findings import Finding, fault, ok, warning
from .sections import AUDIT, OWN_SERVERS, POLICIES, REFUSED_ROW, SIZES

RETENTION_HOURS = 24.0
"""A service that is off for a night must find its records."""

HOUR_MS = 3_600_000


def existence(case: Case) -> Iterator[Finding]:
    """Whether the topics of the declaration are there."""
    seen = startup.see_topics(case.settings, case.service)
    present = TopicCollection(sorted(seen.present))
    asked = case.admin.describe_topics(present, include_authorized_operations=True, request_timeout=ANSWER_SECONDS)
    case.described = {name: answer.result(2 * ANSWER_SECONDS) for name, answer in asked.items()} if seen.present else {}
    try:
        startup.refuse_missing(case.service, seen)
    except Misconfigured as error:
        yield fault(
            str(error),
            f"run {case.command('topics')}, or that of the service that owns it",
            OWN_SERVERS,
        )
    if seen.present:
        counts = ", ".join(f"{name} ({partitions})" for name, (_, partitions) in sorted(seen.present.items()))
        yield ok(f"there, with their partitions: {counts}")


def settings(case: Case) -> Iterator[Finding]:
    """The settings of the topics: what they lose, refuse or forget."""
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in sorted(case.described)]
    asked = case.admin.describe_configs(resources, request_timeout=ANSWER_SECONDS) if resources else {}
    found: list[tuple[str, Finding]] = []
    for resource, answer in asked.items():
        try:
            values = {name: entry.value for name, entry in answer.result(2 * ANSWER_SECONDS).items()}
        except KafkaException as error:
            found.append((resource.name, not_shown("the settings", error.args[0], "on the topic")))
            continue
        said = list(judged(resource.name, case.described[resource.name], values, case.service, case.settings))
        found += [(resource.name, one) for one in said or [ok("replicas, cleanup, size and retention are as needed")]]
    yield from together(found)


def together(found: Iterable[tuple[str, Finding]]) -> Iterator[Finding]:
    """Say once what was found of several topics."""
    names: dict[Finding, list[str]] = defaultdict(list)
    for name, one in found:
        names[one].append(name)
    for one, topics in names.items():
        yield one._replace(seen=f"{', '.join(topics)}: {one.seen}")


def judged(
    name: str, topic: TopicDescription, values: Mapping[str, str | None], service: Service, settings: Settings
) -> Iterator[Finding]:
    """Judge the settings of one topic."""
    alter = "kafka-configs.sh --alter --entity-type topics --entity-name TOPIC --add-config "
    publishes = name in service.published_topics or name == service.dead_letter_topic
    yield from _insync(topic, _number(values.get("min.insync.replicas")), alter)
    if "compact" in (values.get("cleanup.policy") or "") and name != service.lane_topic:
        if publishes:
            yield warning(
                "cleanup.policy=compact hides records: `audit` takes them for never published, and `positions adopt` "
                "of a lane publishes them again",
                f"`{alter}cleanup.policy=delete`",
                AUDIT,
            )
        else:
            yield warning(
                "cleanup.policy=compact removes records before this service has read them, if it is off for long",
                f"ask its owner: `{alter}cleanup.policy=delete`",
            )
    largest = _number(values.get("max.message.bytes"))
    if name in service.published_topics and largest is not None and largest < settings.event_bytes_max + ENVELOPE_BYTES:
        least = settings.event_bytes_max + ENVELOPE_BYTES
        yield warning(
            f"max.message.bytes={largest} is too little for EVENT_BYTES_MAX={settings.event_bytes_max}: a large event "
            "stops its lane with ContentStuck",
            f"`{alter}max.message.bytes={least}`",
            REFUSED_ROW,
        )
    if name in service.consumed_topics:
        yield from _retention(values, settings, alter)


def _insync(topic: TopicDescription, least: int | None, alter: str) -> Iterator[Finding]:
    replicas = min((len(partition.replicas) for partition in topic.partitions), default=0)
    insync = min((len(partition.isr) for partition in topic.partitions), default=0)
    if least is None or not replicas:
        return
    if least > insync:
        yield fault(
            f"min.insync.replicas={least}, and a partition has {insync} replicas in sync of {replicas}: nothing can be "
            "written to it",
            f"bring the other brokers back, or `{alter}min.insync.replicas={max(1, replicas - 1)}`",
            SIZES,
        )
    elif least == replicas > 1:
        yield warning(
            f"min.insync.replicas={least} is the number of replicas: no broker may ever be away",
            f"`{alter}min.insync.replicas={replicas - 1}`",
            SIZES,
        )
    elif least == 1 < replicas:
        yield warning(
            "min.insync.replicas=1: what one broker has alone is acknowledged, and lost with it",
            f"`{alter}min.insync.replicas=2`",
            SIZES,
        )


def _retention(values: Mapping[str, str | None], settings: Settings, alter: str) -> Iterator[Finding]:
    """Compare how long a consumed topic keeps its records with how long the inbox knows them."""
    kept = _number(values.get("retention.ms"))
    if "delete" not in (values.get("cleanup.policy") or "delete"):
        kept = -1
    if kept is None:
        return
    hours, inbox = kept / HOUR_MS, settings.inbox_retention_hours
    if kept < 0 or hours > inbox:
        words = "for ever" if kept < 0 else f"for {hours:g} h"
        yield warning(
            f"records are kept {words}, and the inbox knows them for {inbox:g} h: after a `positions rewind` or a "
            "restore that goes back further, they take effect a second time",
            f"raise INBOX_RETENTION_HOURS{f' to {hours:g}' if kept >= 0 else ''}, or rewind no further ",
            POLICIES,
        )
    if 0 <= hours < RETENTION_HOURS:
        yield warning(
            f"records are kept for {hours:g} h only: a service that is off for longer stops with RecordsLost",
            f"`{alter}retention.ms={int(RETENTION_HOURS) * HOUR_MS}` or more, by its owner",
            SIZES,
        )


def _number(value: str | None) -> int | None:
    return int(value) if value is not None and value.lstrip("-").isdecimal() else None
