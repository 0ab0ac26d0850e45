"""Inputs that this client cannot read on: it fetches a batch, and cannot unpack it or make sense of it.

The others go on meanwhile. Such an input is not fetched until it is due to be tried again, and nothing is passed over:
only an operator can decide that, since nobody has seen what the batch holds.
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
"""What the client says of a batch that it has got and cannot read, and what that means."""

LOOK_SECONDS = 10.0
"""So long it may take to be told the header, from three questions to brokers."""

DETAIL_MAX = 300
"""Characters of why nobody told it."""

AGAIN_SECONDS = 300.0
"""To try it costs the memory that the batch takes when it is unpacked, and each time a recovery."""


class Unreadable:
    """The inputs of one client that it cannot read on. `look` gives the header of the batch at an offset; it may raise
    anything.
    """

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
        """Note that `source` cannot be read from `offset` on, until it is due again; return the words for it."""
        header, unknown = None, "no broker shows it"
        try:
            with MAIN_LOOP.waiting(f"the header of the batch at {source} {offset}", LOOK_SECONDS):
                header = self._look(source, offset)
        except Exception as failure:  # noqa: BLE001 - of kafka-python, whatever it is
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
        """Return those of the inputs that are now owned that are not to be fetched; forget all others, also those with
        something to read before what cannot be read.
        """
        now = self._clock()
        self._rows = {
            source: (words, again, offset)
            for source, (words, again, offset) in self._rows.items()
            if source in positions and again > now and positions[source] >= offset
        }
        return set(self._rows)

    def due(self) -> Input | None:
        """Return an input that is to be tried again, once."""
        now = self._clock()
        found = next((source for source, (_, again, _) in self._rows.items() if again <= now), None)
        if found is not None:
            del self._rows[found]
        return found

    def __contains__(self, source: object) -> bool:
        return source in self._rows

    def words(self) -> str:
        """What cannot be read; empty if there is nothing."""
        return "; ".join(words for words, *_ in self._rows.values())
