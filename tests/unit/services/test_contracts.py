"""What services promise each other, though they share no code; a copied service is checked from its first minute."""

import re
from importlib import import_module
from pathlib import Path

import msgspec

from shared.handling import Service

SERVICES: list[Service] = [
    import_module(f"services.{path.parent.name}.handlers").SERVICE
    for path in sorted(Path("services").glob("*/handlers.py"))
]
ELSEWHERE = {"elsewhere.events"}
"""Topics on which somebody speaks who is not in this repository; the service `example` hears one."""


def test_every_type_that_is_heard_is_said_by_one_service() -> None:
    saying = [(event.topic, event.__name__, event.version) for service in SERVICES for event in service.says]
    for service in SERVICES:
        for route in service.routes:
            said = saying.count((route.event.topic, route.event.__name__, route.event.version))
            assert said == (route.event.topic not in ELSEWHERE), f"{service.name} hears {route.event.__name__}"


def test_a_topic_belongs_to_the_service_that_says_it() -> None:
    for service in SERVICES:
        assert service.speaks_on == (f"{service.name}.events",)


def test_no_service_imports_another() -> None:
    """The import contract says it too; a copy made by `make service` is checked here from its first minute."""
    for path in sorted(Path("services").glob("*/*.py")):
        for imported in re.findall(r"(?:from|import) services\.(\w+)", path.read_text()):
            assert imported == path.parent.name


def test_a_listener_finds_the_fields_that_it_needs() -> None:
    """Each field that a listener's view requires, the event has, by the same name."""
    said = {(event.topic, event.__name__): event for service in SERVICES for event in service.says}
    for service in SERVICES:
        for route in service.routes:
            event = said.get((route.event.topic, route.event.__name__))
            required = {field.encode_name for field in msgspec.structs.fields(route.event) if field.required}
            assert event is None or required <= {field.encode_name for field in msgspec.structs.fields(event)}
