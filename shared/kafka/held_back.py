"""Inputs that are held back: a transaction is open in the topic, and a read_committed consumer cannot pass its first
record until it ends.
"""

import time
from collections.abc import Collection, Mapping
from contextlib import closing
from datetime import UTC, datetime

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaException, TopicPartition

from ..protocol.ports import Input
from ..settings import Settings
from .open_transactions import ENDED, Holder, holders, plain

HELD_SECONDS = 10.0
"""Transactions are open all the time, for milliseconds. One that stays open this long is reported."""

READ_SECONDS = 4.0


class Held:
    """One input, held back at an offset."""

    def __init__(self, source: Input, offset: int) -> None:
        self.source = source
        self.offset = offset
        self.asked = self.reported = False
        self._began = time.monotonic()
        self._since = datetime.now(UTC)
        self.holder = Holder()
        self._first = "unknown"

    def seconds(self) -> float:
        """Return how long ago it was first seen."""
        return time.monotonic() - self._began

    def read(self, settings: Settings, group: str) -> None:
        """Read the first record of the transaction, which is at the offset, if possible."""
        reader = Consumer(
            {
                **settings.kafka(),
                "group.id": group,  # it is not joined, and nothing is committed
                "isolation.level": "read_uncommitted",
                "enable.auto.commit": False,
                "log_level": 0,  # failures are reported below
            }
        )
        with closing(reader):
            try:
                reader.assign([TopicPartition(*self.source, self.offset)])
                found = reader.poll(READ_SECONDS)
                if found is None or found.error() is not None or found.offset() != self.offset:
                    return
                headers = dict(found.headers() or ())
            except (KafkaException, UnicodeDecodeError):  # a header's name may be any bytes
                return
        kind, milliseconds = found.timestamp()
        if kind != TIMESTAMP_NOT_AVAILABLE:
            self._since = datetime.fromtimestamp(milliseconds / 1_000, UTC)
        self._first = described(headers)

    def __str__(self) -> str:
        topic, partition = self.source
        since = (self.holder.began if self.holder.state not in ENDED else None) or self._since
        tool = f"kafka-transactions.sh describe-producers --topic {topic} --partition {partition}"
        find = "" if self.holder.transactional_id else f"`{tool}` names its producer; "
        return (
            f"{self.source} has been held back at offset {self.offset} since {since:%Y-%m-%d %H:%M:%S} UTC by "
            f"{self.holder}; its first record: {self._first}; {find}docs/operating.md, "
            "'A transaction that does not end', says how to end it, also in a topic of others"
        )


def described(headers: Mapping[str, bytes | str | None]) -> str:
    """Name an event by its headers; an event of others may have any."""
    source, event, identity = (plain(headers.get(name)) for name in ("ce_source", "ce_type", "ce_id"))
    named = f"{event or 'an event without ce_type'} {identity or '(without ce_id)'}"
    return f"{named} of {source}" if source else "one without ce_source"


def ask(settings: Settings, group: str, held: Collection[Held]) -> None:
    """Find out whose transactions they are, as far as the brokers know. Takes some seconds if none answers."""
    found = holders(settings, f"{group}-held-back", {one.source: one.offset for one in held})
    for one in held:
        one.holder = found[one.source]
        one.read(settings, group)
        one.asked = True
