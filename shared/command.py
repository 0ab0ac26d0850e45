"""The command line of a service: `python -m services.<name> <command>`."""

import argparse
import sys
from typing import Any, NoReturn

from shared import start, telemetry
from shared.container import lazily
from shared.errors import ExactlyOnceError, Exit, Refused

EXIT_REFUSED = 78
"""EX_CONFIG of sysexits.h: something must be mended before it makes sense to start again."""
EXIT_AGAIN = 75
"""EX_TEMPFAIL: start me again."""


def api(container: Any, _arguments: argparse.Namespace) -> None:
    """Serve the HTTP API."""
    start.check_database(container.engine(), container.service())
    lazily("shared.serving:serve", application=container.application(), settings=container.settings())


def worker(container: Any, _arguments: argparse.Namespace) -> None:
    """Handle what the service hears, and say what its database has decided."""
    settings = container.settings()
    process = container.worker()
    if settings.metrics_port:
        telemetry.serve(settings.http_host, settings.metrics_port, process.ready)
    process.run()


def migrate(container: Any, _arguments: argparse.Namespace) -> None:
    """Bring the service's database to the newest schema."""
    lazily("shared.migrating:migrate", settings=container.settings(), service=container.service().name)


def topics(container: Any, _arguments: argparse.Namespace) -> None:
    """Create the topics that are missing."""
    created = start.create_topics(container.settings(), container.service())
    print(f"created {', '.join(created)}" if created else "all topics are there")


COMMANDS = (api, worker, migrate, topics)


def main(container_class: type[Any]) -> NoReturn:
    """Run the command that the arguments name, and exit: 0 done, 75 start again, 78 mend something first."""
    container = container_class()
    service = container.service()
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{service.name}", description=f"The {service.name} service."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        commands.add_parser(command.__name__, help=command.__doc__).set_defaults(run=command)
    arguments = parser.parse_args()
    try:
        telemetry.configure(container.settings(), service=service.name, process=arguments.command)
        arguments.run(container, arguments)
    except Refused as error:
        print(f"{service.name} {arguments.command}: {error}", file=sys.stderr)
        sys.exit(EXIT_REFUSED)
    except (Exit, ExactlyOnceError) as error:
        telemetry.log.critical("exit", error=type(error).__name__, detail=str(error))
        sys.exit(EXIT_AGAIN)
    sys.exit(0)
