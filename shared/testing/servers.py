"""The servers that tests need: this library starts none. A fixture of the project gives them (`tests/conftest.py`)."""

from typing import Protocol


class Kafka(Protocol):
    """A Kafka cluster that tests may make topics in."""

    @property
    def bootstrap(self) -> str:
        """Its addresses, as KAFKA_BOOTSTRAP_SERVERS has them."""
        ...


class Postgres(Protocol):
    """A PostgreSQL server that tests may make databases and roles in."""

    def dsn(self, database: str = "postgres", role: str = "postgres") -> str:
        """Return the DSN of a database."""
        ...

    def create_database(self, name: str) -> None:
        """Make a database."""
        ...

    def create_role(self, name: str) -> None:
        """Make a role that may log in, unless it is there."""
        ...

    def drop_database(self, name: str) -> None:
        """Drop a database, also while it is used."""
        ...


class Servers(Protocol):
    """Both."""

    @property
    def kafka(self) -> Kafka:
        """The cluster."""
        ...

    @property
    def postgres(self) -> Postgres:
        """The server."""
        ...
