"""The system in containers, as docker-compose.yml has it. Without docker every test here fails: none is skipped."""

import pytest

from dev.docker import Docker

PROJECT = "exactly-once-test"
GIVEN = dict.fromkeys(
    ("POSTGRES_PASSWORD", "DATABASE_PASSWORD", "MIGRATION_PASSWORD", "API_TOKEN_SHA256"), "of-this-test"
)
"""Variables that docker-compose.yml needs."""
# A build and a start, and the machine may be busy. A test that only asks takes seconds.
SECONDS_MAX = 1_200


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test here the time that its fixtures need."""
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS_MAX))


@pytest.fixture(scope="session")
def docker() -> Docker:
    """Docker with nothing running."""
    return Docker(PROJECT, GIVEN, [])


@pytest.fixture(scope="session")
def image(docker: Docker) -> str:
    """The image of all services, built from this tree."""
    docker.docker("build", "--tag", "exactly-once", ".", seconds=SECONDS_MAX)
    return "exactly-once"
