"""`python -m dev.service new shipping --from inventory`, `python -m dev.service remove shipping`."""

import argparse
import sys

from dev.servers import background
from dev.servers.prepare import ROOT
from dev.servers.process import ServerError
from dev.service import copying, removing
from dev.service.copying import Consumed, Misconfigured
from dev.service.entries import compose_port
from dev.service.names import Spellings
from shared import renamed

EXIT_MISCONFIGURED = 1


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m dev.service", description="Make a service, or remove one.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    new = commands.add_parser("new", help="make a service that consumes an event of another one")
    new.add_argument("name")
    new.add_argument("--from", dest="source", required=True, help="the service that it consumes")
    new.add_argument("--consumes", help="the event; default: the first one that the other service publishes")
    remove = commands.add_parser("remove", help="take a service away again")
    remove.add_argument("name")
    remove.add_argument("--force", action="store_true", help="even if it has changes that are not in git")
    if refusal := renamed.refusal(sys.argv):
        parser.error(refusal)
    given = parser.parse_args()
    try:
        if given.command == "new":
            _tell(*copying.new(given.name, given.source, given.consumes)[:2])
            prepare()
        else:
            print(f"Removed {len(removing.remove(given.name, force=given.force))} files of {given.name}.")
    except Misconfigured as error:
        print(f"Nothing was changed. {error}", file=sys.stderr)
        return EXIT_MISCONFIGURED
    return 0


def prepare() -> None:
    """Make a database, topics and tables for the new service where servers run already."""
    if not background.is_up(ROOT):
        return
    try:
        background.up(ROOT, None, None)
    except ServerError as error:
        print(f"The service is made; its database and topics are not. Run `make servers` again: {error}")


def _tell(name: Spellings, consumed: Consumed) -> None:
    port = compose_port(name.snake)
    print(f"""\
Made the service {name.snake}. It consumes {consumed.event} of {consumed.topic}, keeps the table {name.snake}, publishes
{name.title}Noted on {name.snake}.events, and answers POST /{name.path}/{{{consumed.field}}}/notes.

    services/{name.snake}/
    migrations/{name.snake}/
    compose/{name.snake}.yml
    tests/unit/services/test_{name.snake}.py
    tests/integration/test_{name.snake}.py

Its tests pass, `make test`, `make demo` and `make up` have it already. To start it by hand:

    make servers
    .venv/bin/python -m services.{name.snake} worker
    HTTP_PORT={port} .venv/bin/python -m services.{name.snake} api

What it is about is yours to decide; begin with services/{name.snake}/events.py.""")


if __name__ == "__main__":
    sys.exit(main())
