"""`python -m dev.servers up|down`; `serve` is what `up` leaves running."""

import argparse
import sys

from dev.servers import background
from dev.servers.process import ServerError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.servers", description="Kafka and PostgreSQL in the background")
    parser.add_argument("command", choices=("up", "down", "serve"))
    parser.add_argument("--kafka-port", type=int, help="default: any free one")
    parser.add_argument("--postgres-port", type=int, help="default: any free one")
    arguments = parser.parse_args()
    try:
        if arguments.command == "up":
            background.up(arguments.kafka_port, arguments.postgres_port)
        elif arguments.command == "down":
            background.down()
        else:
            background.serve(arguments.kafka_port, arguments.postgres_port)
    except ServerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
