"""What must hold for a service without rules here, such as a copied one.

Nothing is known of its business. But its inbox lists the events that it has handled: of each type that it handles,
it must have handled every one that can be read, and none that cannot. What it publishes must come once, under
its own name, and each key in one partition.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from dev.balance.databases import Databases
from dev.balance.queries import INBOX
from dev.balance.rules import CONSUMED_TOPICS, SERVICES
from dev.balance.sheet import Offenders, Row, none
from dev.balance.topics import STRANGERS_ID, Record, Topics


def consumed_topics(service: str, databases: Databases) -> tuple[str, ...]:
    """Name the topics that a service consumes: by the rules, or by what its database knows."""
    return CONSUMED_TOPICS[service] if service in CONSUMED_TOPICS else databases.consumed(service)


def others(databases: Databases) -> list[str]:
    """Name the services that have no rules."""
    return [service for service in databases.services if service not in SERVICES]


@dataclass
class Deviations:
    """Errors in what other services have handled and published."""

    unhandled: Offenders = field(default_factory=Offenders)
    invented: Offenders = field(default_factory=Offenders)
    repeated: Offenders = field(default_factory=Offenders)
    foreign: Offenders = field(default_factory=Offenders)
    scattered: Offenders = field(default_factory=Offenders)


def rows(databases: Databases, topics: Topics) -> list[Row]:
    """Compare what each other service has handled and published with the topics; no rows if there is none."""
    found = Deviations()
    made = []
    for service in others(databases):
        handled, due = _consumed(service, databases, topics, found)
        made.append(Row(f"events that {service} has handled", handled, due))
        _published(service, databases, topics, found)
    if not made:
        return []
    return [
        *made,
        none("events that were handled by no other service", found.unhandled),
        none("events that were handled and cannot be read", found.invented),
        none("events of other services published twice", found.repeated),
        none("records that are no events of the other service", found.foreign),
        none("keys of other services in several partitions", found.scattered),
    ]


def _consumed(service: str, databases: Databases, topics: Topics, into: Deviations) -> tuple[int, int]:
    """Compare the inbox with the topics; return how many events were handled, and how many must have been."""
    inbox = {
        (str(source), str(event_id))
        for source, event_id in databases.stream(service, INBOX)
        if not event_id.startswith(STRANGERS_ID)
    }
    readable: dict[tuple[str, str], Record] = {
        (record.source, record.id): record for record in topics.read(consumed_topics(service, databases))
    }
    types = {(record.topic, record.type) for event, record in readable.items() if event in inbox}
    due = {event for event, record in readable.items() if (record.topic, record.type) in types}
    for event in sorted(due - inbox):
        into.unhandled.add(f"{readable[event].key} by {service}: {readable[event]}")
    for source, event_id in sorted(inbox - due):
        into.invented.add(f"{event_id} of {source} by {service}")
    return len(inbox), len(due)


def _published(service: str, databases: Databases, topics: Topics, into: Deviations) -> None:
    ids: set[str] = set()
    partitions: defaultdict[str, set[int]] = defaultdict(set)
    for record in topics.read({f"{service}.events", *databases.published_topics(service)}):
        if not (record.key and record.id and record.type) or record.source != service:
            into.foreign.add(f"{record.key or '-'} {record}")
        elif record.id in ids:
            into.repeated.add(f"{record.key} {record}")
        ids.add(record.id)
        partitions[record.key].add(record.partition)
    for key, numbers in partitions.items():
        if len(numbers) > 1:
            into.scattered.add(f"{key} in partitions {sorted(numbers)}")
