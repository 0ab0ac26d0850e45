"""What the system has for each service besides the service's own folders. Whatever lists services takes it from here:
`make servers` for now.
"""

from collections.abc import Sequence
from typing import NamedTuple

FIRST_PORT = 8000


class Entry(NamedTuple):
    """One service, as somebody starts it."""

    service: str
    """Also the name of its database."""
    http_port: int
    """Of its API."""


def entries(services: Sequence[str]) -> list[Entry]:
    """Give the entry of each service."""
    return [Entry(name, FIRST_PORT + number) for number, name in enumerate(services)]
