"""A worker that breaks the guarantee on purpose: `python -m tests.e2e.sabotaged <service> worker`, SABOTAGE says how.

It proves that the balance sheet sees what it claims to see. Each such worker kills itself once, at the moment when that
does harm: a kill from outside would hit it only by luck.
"""

import importlib
import itertools
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from confluent_kafka import TopicPartition

from shared.command import main
from shared.kafka.client import KafkaClient
from shared.postgres.transaction import PostgresTransaction
from shared.protocol.ports import Claim, Committed, Input, OutboxRow

DIES_AT = 30
"""Transactions that publish something; a worker makes hundreds in a run. Its successors die there too."""

_published = itertools.count(1)


def die_at_the_worst_moment() -> None:
    if next(_published) == DIES_AT:
        os.kill(os.getpid(), signal.SIGKILL)


def commit_p_outside() -> None:
    """Commit the published position after the Kafka transaction, not inside it: a kill between the two publishes rows
    twice.
    """
    build = KafkaClient.__init__

    def broken(self: KafkaClient, member: Any, producer: Any) -> None:
        build(self, member, producer)
        kept: list[TopicPartition] = []
        commit = self.commit

        def send_offsets(_inputs: Mapping[Input, int], lanes: Mapping[int, Committed], _group_metadata: Any) -> None:
            topic = member._service.lane_topic
            kept[:] = [
                TopicPartition(topic, n, published.offset, metadata=published.metadata)
                for n, published in lanes.items()
            ]

        def commit_then_p() -> None:
            commit()
            if kept:
                die_at_the_worst_moment()
                member._consumer.commit(offsets=kept, asynchronous=False)

        self.send_offsets, self.commit = send_offsets, commit_then_p  # type: ignore[assignment]

    KafkaClient.__init__ = broken  # type: ignore[method-assign]


def delete_claimed_rows_early() -> None:
    """Delete claimed rows with the claim, before the published position proves that Kafka has them: a kill between
    loses rows.
    """
    make = PostgresTransaction.claim
    commit = PostgresTransaction.commit

    def claim(
        self: PostgresTransaction, limits: Mapping[int, int], unpublished: Collection[int]
    ) -> tuple[dict[int, Claim], Sequence[OutboxRow]]:
        claims, rows = make(self, limits, unpublished)
        self.forget([*claims, *unpublished])
        self._published_rows = bool(rows)  # type: ignore[attr-defined]
        return claims, rows

    def commit_and_die(self: PostgresTransaction) -> None:
        commit(self)
        if getattr(self, "_published_rows", False):
            die_at_the_worst_moment()

    PostgresTransaction.claim = claim  # type: ignore[method-assign]
    PostgresTransaction.commit = commit_and_die  # type: ignore[method-assign]


SABOTAGES: dict[str, Callable[[], None]] = {
    "commit_p_outside": commit_p_outside,
    "delete_claimed_rows_early": delete_claimed_rows_early,
}

if __name__ == "__main__":
    SABOTAGES[os.environ["SABOTAGE"]]()
    service = sys.argv.pop(1)
    container = importlib.import_module(f"services.{service}.container")
    main(getattr(container, f"{service.capitalize()}Container"))
