"""What services promise each other, though they share no code; a copied service is checked from its first minute.

These are rules: breaking one loses events, or their order, or waits for ever. Each failure says what to do. What
only the three services of the demo have in common is in test_saga_contracts.py.
"""

import re
from importlib import import_module
from pathlib import Path

import msgspec

from shared.service import Service

SERVICES: list[Service] = [
    import_module(f"services.{path.parent.name}.handlers").service
    for path in sorted(Path("services").glob("*/handlers.py"))
]


def elsewhere(service: str) -> set[str]:
    """Return topics of outside publishers, as the service's `events.py` lists them. The service `example` of the bare
    template consumes `elsewhere.events`.
    """
    events = import_module(f"services.{service}.events")
    return {*getattr(events, "ELSEWHERE", ()), "elsewhere.events"}


def test_every_type_that_is_consumed_is_published_by_one_service() -> None:
    published = {(event.topic, event.__name__) for service in SERVICES for event in service.publishes}
    publishers = {topic: service.name for service in SERVICES for topic in service.published_topics}
    for service in SERVICES:
        for event in {route.event for route in service.routes}:
            where = f"services/{service.name} consumes {event.__name__} on {event.topic}"
            if event.topic in publishers:
                assert event.topic not in elsewhere(service.name), (
                    f"{where}, which {publishers[event.topic]} publishes; take the topic out of ELSEWHERE in "
                    f"services/{service.name}/events.py"
                )
                assert (event.topic, event.__name__) in published, (
                    f"{where}, and {publishers[event.topic]} does not publish it: add it to `publishes` in "
                    f"services/{publishers[event.topic]}/handlers.py, or correct the name"
                )
            else:
                assert event.topic in elsewhere(service.name), (
                    f"{where}, and no service here publishes on that topic. If another team's does, write in "
                    f'services/{service.name}/events.py: ELSEWHERE = {{"{event.topic}"}}; else correct the topic'
                )


def test_who_consumes_a_type_knows_each_version_that_is_published() -> None:
    """Upgrade listeners first: an event too new for its listener waits, and all behind it too."""
    for service in SERVICES:
        consumed = {(route.event.topic, route.event.__name__, route.event.version) for route in service.routes}
        types = {(topic, name) for topic, name, _ in consumed}
        for publisher in SERVICES:
            for event in publisher.publishes:
                if (event.topic, event.__name__) in types:
                    assert (event.topic, event.__name__, event.version) in consumed, (
                        f"{publisher.name} publishes version {event.version} of {event.__name__}, and "
                        f"services/{service.name} "
                        f"consumes others only: give it a class with `version: ClassVar[int] = {event.version}` and a "
                        f"route for it in handlers.py (docs/upgrading.md, Change an event)"
                    )


def test_a_topic_belongs_to_one_service_that_publishes_it() -> None:
    """Two publishers on one topic do not keep a key's order, and some topics are the library's own."""
    owners: dict[str, str] = {}
    for service in SERVICES:
        for topic in (*service.published_topics, service.lane_topic, service.dead_letter_topic):
            assert topic not in owners, (
                f"{service.name} and {owners[topic]} both publish on {topic}: give each a topic of its own (`topic` of "
                f"the events in services/{service.name}/events.py)"
            )
            owners[topic] = service.name
    for service in SERVICES:
        lanes = {other.lane_topic: other.name for other in SERVICES}
        for topic in service.consumed_topics:
            assert topic not in lanes, (
                f"services/{service.name} consumes {topic}, where {lanes[topic]} publishes nothing, ever"
            )


def test_no_service_imports_another() -> None:
    """The import contract says it too; a copy made by `make service` is checked here from its first minute."""
    for path in sorted(Path("services").glob("*/*.py")):
        for imported in re.findall(r"(?:from|import) services\.(\w+)", path.read_text()):
            assert imported == path.parent.name, (
                f"{path} imports services.{imported}: write a view of your own of what you consume, with the fields "
                "that "
                f"you need, in services/{path.parent.name}/events.py"
            )


def test_a_listener_finds_the_fields_that_it_needs() -> None:
    """The event has each field that a listener's view requires, by the same name."""
    published = {
        (event.topic, event.__name__, event.version): event for service in SERVICES for event in service.publishes
    }
    for service in SERVICES:
        for route in service.routes:
            event = published.get((route.event.topic, route.event.__name__, route.event.version))
            required = {field.encode_name for field in msgspec.structs.fields(route.event) if field.required}
            there = required if event is None else {field.encode_name for field in msgspec.structs.fields(event)}
            assert required <= there, (
                f"services/{service.name}/events.py: {route.event.__name__} requires {sorted(required - there)}, which "
                f"the event on {route.event.topic} has not: correct the name, or give the field a default"
            )
