"""Inputs that are held back: somebody has a transaction open in the topic, and whoever reads committed records gets no
further than its first record until it ends.
"""

import time
from contextlib import closing
from datetime import UTC, datetime

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaException, TopicPartition

from shared.ports import Input
from shared.settings import Settings

HELD_SECONDS = 10.0
"""Transactions are open all the time, for milliseconds. One that is open for so long is told."""

READ_SECONDS = 4.0

HEADER_MAX = 100
"""Characters of what a stranger wrote."""


class Held:
    """One input, held back at an offset."""

    def __init__(self, source: Input, offset: int) -> None:
        self.source = source
        self.offset = offset
        self.told = False
        self._began = time.monotonic()
        self._since = datetime.now(UTC)
        self._by = "somebody"

    def seconds(self) -> float:
        """How long it has been seen."""
        return time.monotonic() - self._began

    def ask(self, settings: Settings, group: str) -> None:
        """Find out whose transaction it is, as far as a client can: its first record is at the offset."""
        reader = Consumer(
            {
                **settings.kafka(),
                "group.id": group,  # it is not joined, and nothing is committed
                "isolation.level": "read_uncommitted",
                "enable.auto.commit": False,
                "log_level": 0,  # what fails is told below
            }
        )
        with closing(reader):
            try:
                reader.assign([TopicPartition(*self.source, self.offset)])
                found = reader.poll(READ_SECONDS)
                if found is None or found.error() is not None or found.offset() != self.offset:
                    return
                headers = dict(found.headers() or ())
            except (KafkaException, UnicodeDecodeError):  # the name of a header may be any bytes
                return
        kind, milliseconds = found.timestamp()
        if kind != TIMESTAMP_NOT_AVAILABLE:
            self._since = datetime.fromtimestamp(milliseconds / 1_000, UTC)
        source, event, identity = (_plain(headers.get(name)) for name in ("ce_source", "ce_type", "ce_id"))
        self._by = f"{source}, with {event} {identity} as its first record" if source else "somebody without ce_source"

    def __str__(self) -> str:
        topic, partition = self.source
        tool = f"kafka-transactions.sh describe-producers --topic {topic} --partition {partition}"
        return (
            f"{self.source} is held back at offset {self.offset} since {self._since:%Y-%m-%d %H:%M:%S} UTC by an open "
            f"transaction of {self._by}; `{tool}` names its producer, and docs/operating.md, 'A transaction that does "
            "not end', says how to end it"
        )


def _plain(value: bytes | str | None) -> str:
    """Give a header as text that a terminal and a log may be shown."""
    raw = value if isinstance(value, bytes) else (value or "").encode(errors="replace")
    words = raw[:HEADER_MAX].decode("ascii", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in words)
