"""`--until`: a run that must end in time starts no test after that moment, and says how many it left out.

Which ones those are differs from seed to seed, so that no test is left out for ever on a machine that is too slow.
"""

import hashlib
import time

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the moment and the seed."""
    group = parser.getgroup("time")
    group.addoption("--until", type=float, metavar="SECONDS", help="start no test after this moment, in Unix time")
    group.addoption("--seed", default="", help="decides which tests are last, if the time may not be enough for all")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave a test out that would begin too late."""
    until = item.config.getoption("until")
    if until is not None and time.time() > until:
        pytest.skip("the time is up (--until)")


def turn(config: pytest.Config, piece: str) -> str:
    """Return what pieces are sorted by: nothing, unless the time may not be enough."""
    if config.getoption("until") is None:
        return ""
    return hashlib.sha256(f"{config.getoption('seed')} {piece}".encode()).hexdigest()
