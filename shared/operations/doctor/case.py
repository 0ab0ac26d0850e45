"""The service that is looked at: what was loaded of it, and what the first checks leave for the later ones."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata
from confluent_kafka.admin._topic import TopicDescription
from sqlalchemy import Engine

from ...configuration.program import program
from ...service import Service
from ...settings import Settings
from ..maintenance import Context


class Case:
    """One service, as its container puts it together."""

    admin: AdminClient
    """Set by the check of Kafka's connection, like `cluster`."""
    cluster: ClusterMetadata

    def __init__(self, container: Any) -> None:
        self.container = container
        self.service: Service = container.service()
        self.described: Mapping[str, TopicDescription] = {}
        """The topics that are there, with this user's rights on each."""

    @cached_property
    def settings(self) -> Settings:
        """The settings. Raises `Misconfigured`."""
        found: Settings = self.container.settings()
        return found

    @cached_property
    def engine(self) -> Engine:
        """The engine. Raises `Misconfigured`."""
        found: Engine = self.container.engine()
        return found

    @property
    def context(self) -> Context:
        """What the other commands work with."""
        return Context(self.settings, self.service, self.engine, self.container.outbox())

    def command(self, words: str) -> str:
        """Return a command of this service, as typed."""
        return f"`{program(self.service.name)} {words}`"
