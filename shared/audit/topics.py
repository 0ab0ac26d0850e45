"""The audit's other side: the topics' records, how far back they reach, and which transactions hold them back."""

import math
import time
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import KafkaUnavailable
from ..kafka.consumer import headers as headers_of
from ..operations.group import CLEANUP_SECONDS, Group, Span
from ..operations.maintenance import Context
from ..operations.reading import Reading, times
from ..operations.visible import CLOCKS_SECONDS
from ..protocol.ports import Input
from .ledger import Consumed, Ledger, identity

WORD_MAX = 256
"""Characters of a key or type that are reported."""

STANDING_SECONDS = 1.0
"""If the last stable offset stands still this long, one transaction holds it back; those of workers take
milliseconds."""


@dataclass
class Consumption:
    """The records consumed."""

    parts: list[Input] = field(default_factory=list)
    """The partitions, by their numbers in the ledger."""
    records: int = 0
    ours: int = 0
    unread: set[Input] = field(default_factory=set)
    """Partitions whose end is behind a transaction that does not end."""


def longest(context: Context) -> float:
    """Return the longest that a worker's transaction may be open, in seconds: then the broker ends it."""
    return context.settings.transaction_timeout_ms / 1_000 + CLEANUP_SECONDS


def consume(
    context: Context,
    group: Group,
    spans: Mapping[Input, Span],
    *,
    lanes: int,
    ledger: Ledger,
    tick: Callable[[int], None],
) -> Consumption:
    """Read the partitions from the beginning to the ends in `spans`, and enter what the service published into
    `ledger`.
    """
    consumed = Consumption(sorted(spans))
    numbers = {source: n for n, source in enumerate(consumed.parts)}
    source_name = context.service.name.encode()
    reading = Reading(context, {source: (span.low, span.high) for source, span in spans.items()}, removed="earliest")
    for portion in reading.portions():
        ours = []
        for source, offset, message in portion:
            headers: dict[str, Any] = dict(headers_of(message) or ())
            if headers.get("ce_source") == source_name:
                key: Any = message.key() or b""
                ours.append(_consumed((source, offset), numbers[source], key, headers, zlib.crc32(key) % lanes))
        ledger.consume(ours)
        consumed.records += len(portion)
        consumed.ours += len(ours)
        tick(reading.passed)
        silent = time.monotonic() - reading.silent_since
        if silent > STANDING_SECONDS:
            ages = standing(context, group, reading.left)
            if silent > longest(context) and not ages:
                left = ", ".join(map(str, sorted(reading.left)))
                raise KafkaUnavailable(f"nothing arrived for {silent:.0f} s, and {left} is not read to its end")
            hopeless = {source for source, age in ages.items() if max(age, silent) > longest(context)}
            consumed.unread |= hopeless
            reading.left -= hopeless
    return consumed


def _consumed(place: tuple[Input, int], part: int, key: bytes, headers: dict[str, Any], lane: int) -> Consumed:
    event_id = (headers.get("ce_id") or b"").decode(errors="replace")
    # Two records without an id are not the same event.
    number = identity(place[0].topic, event_id) if event_id else hash(place)
    decided = (headers.get("ce_time") or b"").decode(errors="replace")
    kind = (headers.get("ce_type") or b"").decode(errors="replace")
    word = key.decode(errors="backslashreplace")
    return Consumed(part, place[1], number, hash(key), event_id, decided, lane, word[:WORD_MAX], kind[:WORD_MAX])


def standing(context: Context, group: Group, sources: Collection[Input]) -> dict[Input, float]:
    """Return which of `sources` are held back by a transaction that was open in two reads, and for how long: since its
    first record there, by its writer's clock.
    """
    held = _held(group, sources)
    if held:
        time.sleep(STANDING_SECONDS)
        again = _held(group, held)
        held = {source: stable for source, stable in held.items() if again.get(source) == stable}
    began = times(context, held)
    return {source: max(time.time() - began.get(source, math.inf), 0.0) for source in held}


def _held(group: Group, sources: Collection[Input]) -> dict[Input, int]:
    return {source: span.stable for source, span in group.spans(sources).items() if span.stable < span.high}


def kept_since(context: Context, group: Group, sources: Collection[Input]) -> dict[str, float]:
    """Return from when on the topics are complete, in seconds since 1970 by the database's clock; topics from which
    nothing was removed are left out.
    """
    cut = {source: span for source, span in group.spans(sources).items() if span.low > 0}
    firsts = times(context, {source: span.low for source, span in cut.items() if span.low < span.high})
    found: dict[str, float] = {}
    for source in cut:
        # The clocks of the database and of the record's writer may differ.
        since = firsts.get(source, math.inf) + CLOCKS_SECONDS
        found[source.topic] = max(found.get(source.topic, 0.0), since)
    return found
