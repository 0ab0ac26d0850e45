"""A worker of the small service as a process: <service> <settings>.

The database is in the environment, where a password belongs.
"""

import json
import sys

from shared import command
from shared.settings import Settings
from shared.telemetry import metrics
from tests.faults import trail


def main(name: str, settings_json: str) -> None:
    """Run the worker."""
    told = json.loads(settings_json)
    del told["database_url"]
    settings = Settings(**told)
    metrics.configure(settings)
    worker = trail.build(name, settings).worker()
    if settings.metrics_port:
        metrics.serve("127.0.0.1", settings.metrics_port, worker.ready)
    worker.run()
    command.leave(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
