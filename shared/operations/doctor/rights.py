"""What this user may do in Kafka, as far as brokers tell."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._topic import TopicDescription

from ...kafka import open_transactions
from ...service import Service
from .brokers import ANSWER_SECONDS
from .case import Case
from .findings import Finding, fault, ok, unknown, warning
from .sections import KAFKA_RIGHTS


def rights(case: Case) -> Iterator[Finding]:
    """What this user may do on the topics, the group and the transactional ids, as far as brokers tell."""
    yield from permitted(case.service, case.described)
    asked = case.admin.describe_consumer_groups(
        [case.service.name], include_authorized_operations=True, request_timeout=ANSWER_SECONDS
    )
    mend = f"grant this user READ on the group {case.service.name}"
    try:
        operations = _operations(asked[case.service.name].result(2 * ANSWER_SECONDS))
    except KafkaException as error:
        yield unknown(f"group {case.service.name}: {error.args[0].name()}: {error.args[0].str()}", mend, KAFKA_RIGHTS)
    else:
        if operations is None:
            yield unknown(
                f"group {case.service.name}: the broker does not tell what this user may do", mend, KAFKA_RIGHTS
            )
        elif not {AclOperation.READ, AclOperation.ALL} & set(operations):
            yield fault(f"group {case.service.name}: this user may not READ it", mend, KAFKA_RIGHTS)
        else:
            yield ok(f"READ on group {case.service.name}")
    yield _transactional_ids(case)


def _operations(described: Any) -> Collection[AclOperation] | None:
    found: Collection[AclOperation] | None = described.authorized_operations
    return found


def permitted(service: Service, described: Mapping[str, TopicDescription]) -> Iterator[Finding]:
    """Judge the rights on the topics, by those of a worker."""
    told = {name: set(found) for name, topic in described.items() if (found := _operations(topic)) is not None}
    reads = {*service.consumed_topics, service.lane_topic} & told.keys()
    writes = {*service.published_topics, service.dead_letter_topic} & told.keys()
    unread = sorted(name for name in reads if not {AclOperation.READ, AclOperation.ALL} & told[name])
    unwritten = sorted(name for name in writes if not {AclOperation.WRITE, AclOperation.ALL} & told[name])
    if silent := sorted(described.keys() - told.keys()):
        yield unknown(
            f"the brokers do not tell what this user may do on {', '.join(silent)}",
            "look with kafka-acls.sh",
            KAFKA_RIGHTS,
        )
    if unread:
        yield fault(
            f"this user may not READ {', '.join(unread)}",
            "grant it READ on each",
            KAFKA_RIGHTS,
        )
    if unwritten and set(unwritten) == writes and all(AclOperation.READ in told[name] for name in writes):
        yield warning(
            f"this user may READ and not WRITE {', '.join(unwritten)}, which is right for an operator; a worker "
            "with it ends with 78",
            "nothing, if no worker has this user; otherwise grant it WRITE on each",
            KAFKA_RIGHTS,
        )
    elif unwritten:
        yield fault(
            f"this user may not WRITE {', '.join(unwritten)}",
            "grant it WRITE on each",
            KAFKA_RIGHTS,
        )
    if told and not unread and not unwritten:
        yield ok(f"READ on {len(reads)} topics, WRITE on {len(writes)}, as a worker needs")


def _transactional_ids(case: Case) -> Finding:
    """Ask for the first slot's: whether it may be seen. Whether it may be used, only a worker finds."""
    name = f"{case.service.name}-0"
    try:
        with open_transactions.client(case.settings, f"{case.service.name}-doctor") as admin:
            admin.describe_transactions([name])
    except Exception as error:  # noqa: BLE001 - kafka-python's
        kind = type(error).__name__
        if kind == "TransactionalIdAuthorizationFailedError":
            return fault(
                f"transactional id {name}: this user may not even see it",
                f"nothing, if no worker has this user; otherwise grant it WRITE on {case.service.name}-*",
                KAFKA_RIGHTS,
            )
        if kind != "TransactionalIdNotFoundError":  # there was no worker yet
            return unknown(
                f"transactional id {name}: {kind}: {error}"[: open_transactions.DETAIL_MAX], "run this again"
            )
    return ok(f"transactional id {name} may be seen; whether it may be used, brokers tell only a worker")
