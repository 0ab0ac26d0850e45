"""`python -m dev.servers up|down|fetch`; `serve` is what `up` leaves running."""

import argparse
import sys
from pathlib import Path

from dev.servers import background
from dev.servers.jars import kafka_jars
from dev.servers.prepare import ROOT
from dev.servers.process import ServerError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.servers", description="Kafka and PostgreSQL in the background")
    parser.add_argument("command", choices=("up", "down", "fetch", "serve"), help="fetch: download only")
    parser.add_argument("--root", type=Path, default=ROOT, help="where .env.local is written; default: the repository")
    parser.add_argument("--kafka-port", type=int, help="default: any free one")
    parser.add_argument("--postgres-port", type=int, help="default: any free one")
    given = parser.parse_args()
    try:
        if given.command == "up":
            background.up(given.root, given.kafka_port, given.postgres_port)
        elif given.command == "down":
            background.down(given.root)
        elif given.command == "serve":
            background.serve(given.root, given.kafka_port, given.postgres_port)
        else:
            kafka_jars()
    except ServerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
