"""A command of the small service as a process that kills itself at one step: <service> <settings> <point> <words>...

A point is `before-commit-3`: before the third call; `-` for none. The database is in the environment, where a password
belongs.
"""

import json
import os
import signal
import sys
from itertools import count
from typing import Any

from shared import command
from shared.operations import replay_schema
from shared.postgres import roles
from shared.postgres.transaction import PostgresTransaction
from shared.settings import Settings
from shared.telemetry import metrics
from tests.faults import trail

PLACES: dict[str, Any] = {"create": replay_schema, "migrate": replay_schema, "grant": roles}


def die_at(point: str) -> None:
    """Let this process end at `point`."""
    when, call, number = point.split("-")
    place, calls = PLACES.get(call, PostgresTransaction), count(1)
    real = getattr(place, call)

    def deadly(*arguments: Any, **named: Any) -> Any:
        last = next(calls) == int(number)
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **named)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(place, call, deadly)


def main(name: str, settings_json: str, point: str, *words: str) -> None:
    """Run the command, and die on the way."""
    if point != "-":
        die_at(point)
    told = json.loads(settings_json)
    for secret in ("database_url", "migration_database_url"):
        told.pop(secret)
    settings = Settings(**told)
    metrics.configure(settings)
    command.leave(command.run(trail.build(name, settings), list(words)))


if __name__ == "__main__":
    main(*sys.argv[1:])
