"""Who reads the topics, what holds them back, and whether both systems agree how far they are."""

from collections.abc import Iterator
from datetime import UTC, datetime

from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin._group import ConsumerGroupDescription

from ...errors import KafkaUnavailable, LanesDiffer, Misconfigured, Stop
from ...kafka import open_transactions
from ...kafka.held_back import HELD_SECONDS, Held
from ...kafka.open_transactions import ENDED
from ...protocol.ports import Input
from ...service import Service
from .. import diagnosis, survey
from ..group import Group, ask, result
from ..survey import InputState
from .brokers import ANSWER_SECONDS
from .case import Case
from .findings import Finding, fault, ok, unknown, warning
from .sections import KAFKA_RIGHTS, STOPS, TRANSACTION


def group(case: Case) -> Iterator[Finding]:
    """The members of the group: whether workers are there, and nobody else."""
    name = case.service.name
    try:
        found = ask(lambda: result(case.admin.describe_consumer_groups([name], request_timeout=ANSWER_SECONDS)[name]))
    except (Misconfigured, KafkaUnavailable) as error:
        yield unknown(f"group {name}: {error}", f"grant READ on {name}, or run this again", KAFKA_RIGHTS)
        return
    lanes = case.described.get(case.service.lane_topic)
    yield from members(case.service, found, len(lanes.partitions) if lanes is not None else 0)


def members(service: Service, found: ConsumerGroupDescription, lanes: int) -> Iterator[Finding]:
    """Judge the members of a group."""
    strangers = [
        f"{open_transactions.plain(one.group_instance_id or one.client_id)} at {one.host.lstrip('/')}"
        for one in found.members
        if not (one.group_instance_id or "").startswith(f"{service.name}-")
    ]
    owned = {
        p.partition
        for one in found.members
        for p in one.assignment.topic_partitions
        if p.topic == service.lane_topic and p.partition is not None
    }
    clean = True
    if strangers:
        clean = False
        yield warning(
            f"members that are no workers of this library: {', '.join(strangers)}: they take partitions away",
            f"give them a group.id of their own, not {service.name}",
        )
    if not found.members:
        clean = False
        yield warning(
            f"group {service.name} has no member: no worker works",
            "start one; its log says why if it ends",
            STOPS,
        )
    elif found.state != ConsumerGroupState.STABLE:
        clean = False
        yield warning(f"group {service.name} is rebalancing ({found.state.name})", "run this again in some seconds")
    elif len(owned) < lanes:
        clean = False
        yield warning(
            f"{len(owned)} of {lanes} lanes have an owner: events of the others are not published",
            "look at the workers' logs",
            STOPS,
        )
    if clean:
        count = len(found.members)
        yield ok(f"1 member has all {lanes} lanes" if count == 1 else f"{count} members share {lanes} lanes")


def transactions(case: Case) -> Iterator[Finding]:
    """Open transactions that hold readers back, in the topics that are consumed and in our own."""
    partitions = [
        Input(name, partition.id)
        for name, topic in sorted(case.described.items())
        if name != case.service.lane_topic
        for partition in topic.partitions
    ]
    with Group(case.settings, case.service) as seen:
        spans = seen.spans(partitions)
        states = [InputState(source, None, None, span) for source, span in spans.items()]
        held = survey.held_back(case.context, seen, states)
    now = datetime.now(UTC)
    yield from [verdict(one, now) for _, one in sorted(held.items())] or [
        ok(f"none holds back one of {len(spans)} partitions")
    ]


def verdict(one: Held, now: datetime) -> Finding:
    """Judge a transaction that was open in two looks."""
    holder = one.holder
    seconds = (now - holder.began).total_seconds() if holder.began is not None else None
    mend = "ask the owner of that producer to commit, abort or start again"
    if holder.state in ENDED:
        return fault(str(one), f"kafka-transactions.sh abort, with the owner's consent; {mend}", TRANSACTION)
    if seconds is not None and seconds > max(HELD_SECONDS, holder.timeout_seconds):
        return fault(
            f"{one}; it has outlasted its timeout",
            f"kafka-transactions.sh abort, with the owner's consent; {mend}",
            TRANSACTION,
        )
    if seconds is not None and seconds > HELD_SECONDS:
        return fault(str(one), mend, TRANSACTION)
    return warning(str(one), f"run this again in {HELD_SECONDS:g} s; if it stays, {mend}", TRANSACTION)


def positions(case: Case) -> Iterator[Finding]:
    """What a worker would stop for: another cluster or topic, other lanes, positions that disagree."""
    stops = diagnosis.diagnose(case.engine, case.settings, case.service)
    yield from [fault(f"{type(stop).__name__}: {stop}", _decision(case, stop), STOPS) for stop in stops] or [
        ok("Kafka and PostgreSQL agree on cluster, topics, lanes and every position")
    ]


def _decision(case: Case, stop: Stop) -> str:
    """Return what decides: no topic can be made smaller, so PARTITIONS follows the topic of the lanes."""
    topic = case.service.lane_topic
    if isinstance(stop, LanesDiffer) and topic in case.described:
        partitions = len(case.described[topic].partitions)
        if partitions > case.settings.partitions:
            return (
                f"{topic} has {partitions} partitions, and Kafka cannot remove any: set PARTITIONS to {partitions}, "
                f"then run {case.command('lanes resize')}"
            )
    return f"{case.command('positions show')} shows all of it; then decide"
