"""A process that re-drives a dead letter and kills itself at one step: <service> <settings> <id> <before|after>-<step>.

The database is in the environment, where a password belongs.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from shared.operations import redrive
from shared.operations.maintenance import Context
from shared.postgres import dead_letters, inbox
from shared.postgres.handlers import Handlers
from shared.postgres.transaction import PostgresTransaction
from shared.settings import Settings
from tests.faults import trail


def main(name: str, settings_json: str, number: str, point: str) -> None:
    """Re-drive, and die on the way."""
    when, _, call = point.partition("-")
    place: Any = {"receive": inbox, "find": dead_letters, "done": dead_letters}.get(call, PostgresTransaction)
    real: Callable[..., Any] = getattr(place, call)

    def deadly(*arguments: Any, **named: Any) -> Any:
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(place, call, deadly)
    told = json.loads(settings_json)
    del told["database_url"]
    settings = Settings(**told)
    built = trail.build(name, settings)
    made = built.service()
    redrive.one(Context(settings, made, built.engine(), built.outbox()), Handlers(made), int(number))


if __name__ == "__main__":
    main(*sys.argv[1:])
