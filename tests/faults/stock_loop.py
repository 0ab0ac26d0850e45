"""The consume-transform-produce loop as the tutorials have it, on confluent-kafka alone. The harm that network faults
do to it shows that they are real.

It is the loop of confluent-kafka's `examples/eos-transactions.py`, with the errors handled as librdkafka's manual says
(INTRODUCTION.md, "Transactional Producer"): after an abortable error, or an error in the application, it aborts, goes
back to the committed offsets, and goes on with the same producer.

    python -m tests.faults.stock_loop BOOTSTRAP NAME SOURCE TARGET LOG [fails-once]

LOG gets a line for each transaction: how it ended, as the client says, and the offsets of its records. With
`fails-once` the first transaction fails in the application, before its commit.
"""

import sys
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

BATCH = 2
"""Records in one transaction."""
SECONDS = 30.0
"""Bounds each call, by default a minute or more; on an idle machine a call takes milliseconds."""
COMMITTED, ABORTED = "committed", "aborted"


class Failure(Exception):
    """The application failed."""


def main(bootstrap: str, name: str, source: str, target: str, path: str, *more: str) -> None:
    """Copy records until killed."""
    fails, log = "fails-once" in more, Path(path)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": name,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name})
    producer.init_transactions(SECONDS)
    rewind(consumer, source)
    while True:
        batch = consumer.consume(BATCH, SECONDS)
        if not batch:
            continue
        producer.begin_transaction()
        try:
            for message in batch:
                producer.produce(target, message.value(), message.key(), headers=message.headers())
            # The commit would do it. Where the work takes longer than linger.ms, rows are in the log by now anyway.
            producer.flush(SECONDS)
            producer.send_offsets_to_transaction(
                consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), SECONDS
            )
            if fails:
                raise Failure  # noqa: TRY301 - where an application would
            producer.commit_transaction(SECONDS)
            end = COMMITTED
        except (KafkaException, Failure) as error:
            reason = error.args[0] if error.args else None
            if isinstance(reason, KafkaError) and reason.fatal():
                raise
            fails = False
            producer.abort_transaction(SECONDS)
            rewind(consumer, source)
            end = ABORTED
        with log.open("a") as lines:
            lines.write(f"{end} {' '.join(str(message.offset()) for message in batch)}\n")


def rewind(consumer: Consumer, source: str) -> None:
    """Read on from the committed offset."""
    (committed,) = consumer.committed([TopicPartition(source, 0)], SECONDS)
    consumer.assign([TopicPartition(source, 0, max(0, committed.offset))])


if __name__ == "__main__":
    main(*sys.argv[1:])
