"""The worker's waits for records: they end when a row is to be published, or when the process is asked to stop."""

import time

from ..kafka.client import KafkaClient
from ..postgres.wakeup import Wakeup
from ..protocol.ports import Polled
from .stopping import Stopping


class WakingKafka:
    """The Kafka port, with polls that end early."""

    def __init__(self, kafka: KafkaClient, wakeup: Wakeup, stopping: Stopping) -> None:
        kafka.end_waits_if(lambda: wakeup.woken or stopping.is_set())
        self._poll = kafka.poll
        self.committed = kafka.committed
        self.beginning = kafka.beginning
        self.read_from = kafka.read_from
        self.pause = kafka.pause
        self.resume = kafka.resume
        self.renew = kafka.renew
        self.begin = kafka.begin
        self.produce = kafka.produce
        self.send_offsets = kafka.send_offsets
        self.commit = kafka.commit
        self.confirm = kafka.confirm
        self._wakeup = wakeup
        self.waited = 0.0
        """Seconds that the last poll took."""
        self.woken = False
        """Whether a row was told of, before or during that poll."""
        self.had_more = False
        """Whether that poll was not to wait, since records were there to go on with."""

    def poll(self, records: int, seconds: float) -> Polled:
        """Poll as the port does. A wake-up ends the wait, once: the caller asks the outbox next."""
        began = time.monotonic()
        polled = self._poll(records, seconds)
        self.woken, self._wakeup.woken = self._wakeup.woken, False
        self.waited = time.monotonic() - began
        self.had_more = seconds == 0
        return polled
