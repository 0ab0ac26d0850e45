"""The servers that tests need. The library starts none; a fixture of the project does (`tests/conftest.py`)."""

from typing import Protocol


class Kafka(Protocol):
    """A Kafka cluster in which tests may create topics."""

    @property
    def bootstrap(self) -> str:
        """Its addresses, as in KAFKA_BOOTSTRAP_SERVERS."""
        ...


class Postgres(Protocol):
    """A PostgreSQL server in which tests may create databases and roles."""

    def dsn(self, database: str = "postgres", role: str = "postgres") -> str:
        """Return the DSN of a database."""
        ...

    def create_database(self, name: str) -> None:
        """Create a database."""
        ...

    def create_role(self, name: str) -> None:
        """Create a role that may log in, if missing."""
        ...

    def drop_database(self, name: str) -> None:
        """Drop a database, even while it is in use."""
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
