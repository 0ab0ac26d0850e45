"""A real Kafka and a real PostgreSQL, on any machine with Python: for the demo, the tests, and work by hand.

    with running() as servers:
        servers.kafka.bootstrap
        servers.postgres.dsn("order")

They are child processes, listen on the loopback address only, and are gone with their data when the block ends or the
process that started them does, however it does.
"""

from dev.servers.cluster import Cluster
from dev.servers.kafka import Kafka
from dev.servers.postgres import Postgres
from dev.servers.prepare import makes_calls, prepare, service_names
from dev.servers.process import Echo, ServerError, echo
from dev.servers.together import ClusterServers, Servers, attached, running, running_cluster

__all__ = [
    "Cluster",
    "ClusterServers",
    "Echo",
    "Kafka",
    "Postgres",
    "ServerError",
    "Servers",
    "attached",
    "echo",
    "makes_calls",
    "prepare",
    "running",
    "running_cluster",
    "service_names",
]
