"""What this user may do in Kafka, as far as brokers tell."""

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._topic import TopicDescription

from ...errors import KafkaUnavailable, Misconfigured
from ...kafka import open_transactions
from ...service import Service
from ..group import POLL_SECONDS, ask, result
from .brokers import ANSWER_SECONDS
from .case import Case
from .findings import Finding, fault, ok, unknown, warning
from .sections import KAFKA_RIGHTS


def rights(case: Case) -> Iterator[Finding]:
    """What this user may do on the topics, the group and the transactional ids."""
    yield from permitted(case.service, case.described)
    yield _on_group(case)
    yield _on_transactional_ids(case)


def permitted(service: Service, described: Mapping[str, TopicDescription]) -> Iterator[Finding]:
    """Judge the rights on the topics, by those of a worker."""
    told = _told(described)
    reads, writes = _read(service) & told.keys(), _written(service) & told.keys()
    unread = sorted(name for name in reads if not _may(AclOperation.READ, told[name]))
    unwritten = sorted(name for name in writes if not _may(AclOperation.WRITE, told[name]))
    if silent := sorted(described.keys() - told.keys()):
        seen = f"the brokers do not tell what this user may do on {', '.join(silent)}"
        yield unknown(seen, "look with kafka-acls.sh", KAFKA_RIGHTS)
    if unread:
        yield fault(f"this user may not READ {', '.join(unread)}", "grant it READ on each", KAFKA_RIGHTS)
    if unwritten and of_an_operator(service, described):
        yield warning(
            f"this user may READ and not WRITE {', '.join(unwritten)}, which is right for an operator; a worker "
            "with it ends with 78",
            "nothing, if no worker has this user; otherwise grant it WRITE on each",
            KAFKA_RIGHTS,
        )
    elif unwritten:
        yield fault(f"this user may not WRITE {', '.join(unwritten)}", "grant it WRITE on each", KAFKA_RIGHTS)
    if told and not unread and not unwritten:
        yield ok(f"READ on {len(reads)} topics, WRITE on {len(writes)}, as a worker needs")


def of_an_operator(service: Service, described: Mapping[str, TopicDescription]) -> bool:
    """Whether this user may read all that the service publishes, and write none of it: no worker does the first."""
    told = [rights for name, rights in _told(described).items() if name in _written(service)]
    return bool(told) and all(
        _may(AclOperation.READ, rights) and not _may(AclOperation.WRITE, rights) for rights in told
    )


def _read(service: Service) -> set[str]:
    return {*service.consumed_topics, service.lane_topic}


def _written(service: Service) -> set[str]:
    return {*service.published_topics, service.dead_letter_topic}


def _told(described: Mapping[str, TopicDescription]) -> dict[str, Collection[AclOperation]]:
    return {name: found for name, topic in described.items() if (found := _operations(topic)) is not None}


def _operations(described: Any) -> Collection[AclOperation] | None:
    found: Collection[AclOperation] | None = described.authorized_operations
    return found


def _may(operation: AclOperation, granted: Collection[AclOperation]) -> bool:
    return operation in granted or AclOperation.ALL in granted


def _on_group(case: Case) -> Finding:
    name = case.service.name
    mend = f"grant this user READ on the group {name}"
    try:
        found = _operations(
            ask(
                lambda: result(
                    case.admin.describe_consumer_groups(
                        [name], include_authorized_operations=True, request_timeout=ANSWER_SECONDS
                    )[name]
                )
            )
        )
    except Misconfigured as error:
        return fault(f"group {name}: {error}", mend, KAFKA_RIGHTS)
    except KafkaUnavailable as error:
        return unknown(f"group {name}: {error}", "run this again")
    if found is None:
        return unknown(f"group {name}: the broker does not tell what this user may do", mend, KAFKA_RIGHTS)
    if not _may(AclOperation.READ, found):
        return fault(f"group {name}: this user may not READ it", mend, KAFKA_RIGHTS)
    return ok(f"READ on group {name}")


def _on_transactional_ids(case: Case) -> Finding:
    """Ask for the first slot's: whether it may be seen. Whether it may be used, only a worker finds."""
    name = f"{case.service.name}-0"
    try:
        with open_transactions.client(case.settings, f"{case.service.name}-doctor") as admin:
            _describe(admin, name)
    except Exception as error:  # noqa: BLE001 - kafka-python's
        kind = type(error).__name__
        if kind == "TransactionalIdAuthorizationFailedError":
            seen = f"transactional id {name}: this user may not even see it"
            if of_an_operator(case.service, case.described):
                return warning(seen, "nothing, if no worker has this user", KAFKA_RIGHTS)
            return fault(seen, f"grant it WRITE on {case.service.name}-*", KAFKA_RIGHTS)
        if kind != "TransactionalIdNotFoundError":  # there was no worker yet
            seen = f"transactional id {name}: {kind}: {error}"
            return unknown(seen[: open_transactions.DETAIL_MAX], "run this again")
    return ok(f"transactional id {name} may be seen; whether it may be used, brokers tell only a worker")


def _describe(admin: Any, name: str) -> None:
    """Ask again while its coordinator moves, or is made: the first request of all to a cluster does that."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            admin.describe_transactions([name])
        except Exception as error:
            if not getattr(error, "retriable", False) or time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
        else:
            return
