"""`python -m dev.servers up|down|fetch`; `serve` is what `up` leaves running."""

import argparse
import sys
from pathlib import Path

from dev.servers import background, java
from dev.servers.prepare import ROOT
from dev.servers.process import ServerError


def port(word: str) -> int:
    if not word.isdecimal() or not 0 < int(word[:6]) < 65_536:
        raise argparse.ArgumentTypeError(f"{word[:20]} is not a port, a number from 1 to 65535")
    return int(word)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.servers", description="Kafka and PostgreSQL in the background")
    parser.add_argument(
        "command",
        choices=("up", "down", "fetch", "serve"),
        help="fetch: what a first start would do",
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="where to write .env.local; default: the repository")
    parser.add_argument("--kafka-port", type=port, help="default: any free one")
    parser.add_argument("--postgres-port", type=port, help="default: any free one")
    given = parser.parse_args()
    try:
        if given.command == "up":
            background.up(given.root, given.kafka_port, given.postgres_port)
        elif given.command == "down":
            background.down(given.root)
        elif given.command == "serve":
            background.serve(given.root, given.kafka_port, given.postgres_port)
        else:
            java.record()
    except ServerError as error:
        sys.exit(str(error))
    except OSError as error:  # a folder that is not ours, a disk that is full
        sys.exit(f"The servers cannot work here: {error.strerror}: {error.filename}")


if __name__ == "__main__":
    main()
