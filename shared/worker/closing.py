"""Closes replaced Kafka clients in threads, since closing may never return (librdkafka)."""

import threading

from ..errors import TooManyRecoveries
from ..kafka.client import KafkaClient
from ..telemetry.waits import MAIN_LOOP
from .budgets import CLOSE_SECONDS

CLOSING_MAX = 3
"""The number of replaced clients that may still be closing."""


def close(kafka: KafkaClient) -> None:
    """Close replaced clients; those that do not close in time are left behind, where they do no harm. Raises
    `TooManyRecoveries`.
    """
    closing = threading.Thread(target=kafka.close, name="closing", daemon=True)
    closing.start()
    with MAIN_LOOP.waiting("the old Kafka clients to close", CLOSE_SECONDS):
        closing.join(CLOSE_SECONDS)
    if closing.is_alive() and sum(thread.name == "closing" for thread in threading.enumerate()) > CLOSING_MAX:
        raise TooManyRecoveries("the Kafka clients cannot be closed")
