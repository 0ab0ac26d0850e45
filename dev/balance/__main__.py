"""`python -m dev.balance`: the balance sheet of the system that the environment names; exit code 1 if it fails."""

import argparse
import json
import os
import sys
from pathlib import Path

from rich.console import Console

from dev.balance import Balance, Book
from dev.balance.balance import DRAIN_SECONDS, SETTLE_SECONDS
from dev.servers import service_names


def main() -> int:
    """Read the command line, make the sheet, print it."""
    parser = argparse.ArgumentParser(
        prog="python -m dev.balance", description="Make the balance sheet of a running system."
    )
    parser.add_argument("--json", action="store_true", help="print it for machines")
    parser.add_argument("--book", type=Path, help="what the outside world knows, as the demo writes it")
    parser.add_argument("--bank", help="the URL of the bank, to compare its books (default: they are not compared)")
    parser.add_argument("--drain-seconds", type=float, default=DRAIN_SECONDS, help="longest wait until all is at rest")
    parser.add_argument("--settle-seconds", type=float, default=SETTLE_SECONDS, help="how long to wait once more")
    parser.add_argument(
        "--services", nargs="+", default=service_names(), help="those that run (default: all there are)"
    )
    given = parser.parse_args()
    try:
        bootstrap, url = os.environ["KAFKA_BOOTSTRAP_SERVERS"], os.environ["DATABASE_URL"]
    except KeyError as missing:
        parser.error(f"{missing.args[0]} is not set")
    if "{service}" not in url:
        parser.error("DATABASE_URL must contain {service} where the name of the database differs")
    console = Console(stderr=True)
    with console.status("") as status:
        sheet = Balance(
            bootstrap,
            {service: url.replace("{service}", service) for service in given.services},
            given.drain_seconds,
            given.settle_seconds,
            given.bank,
            status.update,
        ).sheet(Book.read(given.book) if given.book else None)
    if given.json:
        print(json.dumps(sheet.as_dict(), indent=2))
    else:
        Console().print(sheet.render(), soft_wrap=True)
    return 0 if sheet.balanced else 1


sys.exit(main())
