"""The system's entries for each service, besides its own files: a port, and a place in each file that lists the
services. All lists of services are made from these.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

from dev.servers import makes_calls

ROOT = Path(__file__).parents[2]
FIRST_PORT = 8000
LISTS = {
    Path("docker-compose.yml"): (r"(?<=\ninclude:\n)(?:  - .*\n)*", "  - compose/{0}.yml\n", ""),
    Path("compose/observe/prometheus.yml"): (
        r"(?<=\n        names:\n)(?:          - .*\n)*",
        "          - {0}-api\n          - {0}-worker\n",
        "          - {0}-caller\n",
    ),
}
"""By file: what its list looks like, the lines for one service, and those for one that makes calls besides."""


class Entry(NamedTuple):
    """One service, as it is started."""

    service: str
    """Also the name of its database."""
    http_port: int
    """Of its API."""


def entries(services: Sequence[str]) -> list[Entry]:
    """Return the entry of each service."""
    return [Entry(name, FIRST_PORT + number) for number, name in enumerate(services)]


def compose_file(service: str) -> Path:
    """Name the file with the containers of a service."""
    return Path(f"compose/{service}.yml")


def compose_port(service: str) -> int:
    """Return the port at which docker compose publishes the API of `service`: it keeps the one that it has, and a new
    service gets one that no other has.
    """
    taken = {
        path.stem: int(found[1])
        for path in (ROOT / "compose").glob("*.yml")
        if (found := re.search(r"_PORT:-(\d+)\}:8000", path.read_text()))
    }
    return taken.get(service) or next(port for port in count(FIRST_PORT) if port not in taken.values())


def lists(services: Sequence[str]) -> dict[Path, str]:
    """Return the files that list the services, with exactly `services` in them."""
    made = {}
    for place, (pattern, lines, callers) in LISTS.items():
        listed = "".join((lines + callers * makes_calls(service)).format(service) for service in sorted(services))
        made[place], changed = re.subn(pattern, lambda _, listed=listed: listed, (ROOT / place).read_text(), count=1)  # type: ignore[misc]
        assert changed, place
    return made


def write(made: Mapping[Path, str]) -> None:
    """Write files that are there already."""
    for place, text in made.items():
        (ROOT / place).write_text(text)
