"""`python -m dev.service new shipping --from inventory`, `python -m dev.service remove shipping`."""

import argparse
import sys

from dev.servers import background, service_names
from dev.servers.prepare import ROOT
from dev.servers.process import ServerError
from dev.service import copying, removing
from dev.service.copying import Heard, Refused
from dev.service.entries import entries
from dev.service.names import Spellings

EXIT_REFUSED = 1


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m dev.service", description="Make a service, or remove one.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    new = commands.add_parser("new", help="make a service that hears an event of another one")
    new.add_argument("name")
    new.add_argument("--from", dest="source", required=True, help="the service that it hears")
    new.add_argument("--hears", help="the event; the first one that the other service says, if none is given")
    remove = commands.add_parser("remove", help="take a service away again")
    remove.add_argument("name")
    remove.add_argument("--force", action="store_true", help="also if it was changed and git has not got it")
    given = parser.parse_args()
    try:
        if given.command == "new":
            _tell(*copying.new(given.name, given.source, given.hears)[:2])
            prepare()
        else:
            print(f"Removed {len(removing.remove(given.name, force=given.force))} files of {given.name}.")
    except Refused as error:
        print(f"Nothing was changed. {error}", file=sys.stderr)
        return EXIT_REFUSED
    return 0


def prepare() -> None:
    """Make a database, topics and tables for the new service where servers run already."""
    if not background.is_up(ROOT):
        return
    try:
        background.up(ROOT, None, None)
    except ServerError as error:
        print(f"The service is made; its database and topics are not. Run `make servers` again: {error}")


def _tell(name: Spellings, heard: Heard) -> None:
    (port,) = (entry.http_port for entry in entries(service_names()) if entry.service == name.snake)
    print(f"""\
Made the service {name.snake}. It hears {heard.event} on {heard.topic}, keeps the table {name.snake}, says
{name.title}Noted on {name.snake}.events, and answers POST /{name.path}/{{{heard.field}}}/notes.

    services/{name.snake}/
    migrations/{name.snake}/
    compose/{name.snake}.yml
    tests/unit/services/test_{name.snake}.py
    tests/integration/test_{name.snake}.py

Its tests pass, `make test`, `make demo` and `make up` have it already. To start it by hand:

    make servers
    .venv/bin/python -m services.{name.snake} worker
    HTTP_PORT={port} .venv/bin/python -m services.{name.snake} api

What it is about is yours to say; begin with services/{name.snake}/events.py.""")


if __name__ == "__main__":
    sys.exit(main())
