"""How Kafka clients that are replaced are closed: beside the main loop, since closing may never return (librdkafka)."""

import threading

from ..errors import TooManyRecoveries
from ..kafka.client import KafkaClient
from ..telemetry.waits import MAIN_LOOP
from .budgets import CLOSE_SECONDS

CLOSING_MAX = 3
"""So many replaced clients may still be closing."""


def close(kafka: KafkaClient) -> None:
    """Close clients that are replaced; those that do not end in time are left alone, and are in nobody's way. Raises
    `TooManyRecoveries`.
    """
    closing = threading.Thread(target=kafka.close, name="closing", daemon=True)
    closing.start()
    with MAIN_LOOP.waiting("the old Kafka clients to close", CLOSE_SECONDS):
        closing.join(CLOSE_SECONDS)
    if closing.is_alive() and sum(thread.name == "closing" for thread in threading.enumerate()) > CLOSING_MAX:
        raise TooManyRecoveries("the Kafka clients cannot be closed")
