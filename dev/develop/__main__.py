"""`python -m dev.develop`: work on the services; `make dev` runs it."""

import argparse
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from dev.develop import session
from dev.develop.ending import Ended, Ending
from dev.servers import ServerError
from dev.servers.__main__ import port

EXIT_NOT_RUN = 1


def _options() -> session.Options:
    parser = argparse.ArgumentParser(
        prog="python -m dev.develop", description="Run all services, and restart what you change."
    )
    parser.add_argument("--port", type=port, help="of the first API; default: 8000")
    parser.add_argument("--kafka-port", type=port, help="default: any free one")
    parser.add_argument("--postgres-port", type=port, help="default: any free one")
    parser.add_argument("--service", help="the one to debug")
    parser.add_argument("--debug", action="store_true", help="its worker runs in this terminal, without timeouts")
    given = parser.parse_args()
    if given.debug and not given.service:
        parser.error("DEBUG=1 needs a service: SERVICE=...")
    if given.service and not given.debug:
        parser.error("SERVICE= is for DEBUG=1: its worker in this terminal")
    if given.debug and not (sys.stdin.isatty() and sys.stdout.isatty()):
        parser.error("DEBUG=1 needs a terminal, for the debugger")
    return session.Options(given.port, given.kafka_port, given.postgres_port, given.service)


@contextmanager
def _terminal_as_before(ending: Ending) -> Iterator[None]:
    """Restore what a debugger that was killed has changed."""
    try:
        restore = partial(termios.tcsetattr, sys.stdin, termios.TCSANOW, termios.tcgetattr(sys.stdin))
    except (termios.error, OSError, ValueError):  # it is no terminal
        yield
        return

    def restored() -> None:
        with suppress(termios.error, OSError):
            restore()

    ending.at_once.append(restored)
    try:
        yield
    finally:
        restored()


def main() -> int:
    """Run a session; return the exit code."""
    options = _options()
    ending = Ending()
    ending.install()
    try:
        with _terminal_as_before(ending):
            session.run(options, ending)
    except Ended as ended:
        with suppress(OSError):  # nobody reads it
            print("Stopped; everything that was started is gone", flush=True)
        return ended.exit_code
    except ServerError as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_RUN
    except TimeoutError as error:
        print(f"Gave up, for the machine is overloaded: {error}", file=sys.stderr)
        return EXIT_NOT_RUN
    except OSError as error:  # a folder that is not ours, a disk that is full
        print(f"This cannot work here: {error.strerror or error}: {error.filename}", file=sys.stderr)
        return EXIT_NOT_RUN
    return 0


if __name__ == "__main__":
    sys.exit(main())
