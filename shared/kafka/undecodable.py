"""Unreadable inputs: this client fetches a batch but cannot unpack or parse it.

The other inputs go on. An unreadable one is not fetched until its next attempt is due. Nothing is skipped: only an
operator can decide that, since the contents of the batch are unknown.
"""

import time
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaError

from ..configuration.program import program
from ..protocol.ports import Input
from ..telemetry.waits import MAIN_LOOP
from .batch_header import Header

CODES = {
    KafkaError._BAD_COMPRESSION: "it is damaged, or larger when it is unpacked than this client takes",
    KafkaError._BAD_MSG: "it is damaged",
    KafkaError._NOT_IMPLEMENTED: "it is in a form or compression that this client does not know",
    KafkaError._UNSUPPORTED_FEATURE: "it is in a form or compression that this client does not know",
    KafkaError._UNDERFLOW: "it is damaged",
}
"""The client's errors for a batch that it fetched but cannot read, and their meaning."""

LOOK_SECONDS = 10.0
"""Time to get the header, with three requests to brokers."""

DETAIL_MAX = 300
"""Characters kept of the error if there is no header."""

AGAIN_SECONDS = 300.0
"""Each attempt costs a recovery, and the memory of the unpacked batch."""


class Unreadable:
    """The unreadable inputs of one client. `look` returns the header of a batch by offset; it may raise anything."""

    def __init__(
        self,
        service: str,
        look: Callable[[Input, int], Header | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._look = look
        self._clock = clock
        self._rows: dict[Input, tuple[str, float, int]] = {}

    def note(self, source: Input, offset: int, error: KafkaError) -> str:
        """Note that `source` cannot be read from `offset` on, until it is due again; return the message."""
        header, unknown = None, "no broker shows it"
        try:
            with MAIN_LOOP.waiting(f"the header of the batch at {source} {offset}", LOOK_SECONDS):
                header = self._look(source, offset)
        except Exception as failure:  # noqa: BLE001 - any error of kafka-python
            unknown = f"{type(failure).__name__}: {failure}"[:DETAIL_MAX]
        if header is None:
            what, to = f"how far its batch goes is not known ({unknown})", "OFFSET"
        else:
            what = f"its batch goes from {header.first} to {header.last}, {header.size} bytes, {header.codec}"
            to = str(header.last + 1)
        words = (
            f"{source} cannot be read from offset {offset} on: {what}; {CODES[error.code()]} ({error.name()}: "
            f"{error.str()}). The other inputs go on; it is tried again every {AGAIN_SECONDS:g} s. To pass over that "
            f"batch, stop the workers, then `{program(self._service)} positions skip --target '{source}' --to {to}`"
        )
        self._rows[source] = words, self._clock() + AGAIN_SECONDS, offset
        return words

    def held(self, positions: Mapping[Input, int]) -> set[Input]:
        """Return the inputs owned now that must not be fetched; forget all others, including those with records left
        to read before the unreadable batch.
        """
        now = self._clock()
        self._rows = {
            source: (words, again, offset)
            for source, (words, again, offset) in self._rows.items()
            if source in positions and again > now and positions[source] >= offset
        }
        return set(self._rows)

    def due(self) -> Input | None:
        """Return an input whose next attempt is due, once."""
        now = self._clock()
        found = next((source for source, (_, again, _) in self._rows.items() if again <= now), None)
        if found is not None:
            del self._rows[found]
        return found

    def __contains__(self, source: object) -> bool:
        return source in self._rows

    def words(self) -> str:
        """The messages about unreadable inputs; empty if there are none."""
        return "; ".join(words for words, *_ in self._rows.values())
