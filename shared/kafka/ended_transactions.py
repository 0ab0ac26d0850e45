"""Wait until no transaction that was open when the producer was renewed still holds records or offsets.

A restarting broker may forget to write the markers that end a transaction (KAFKA-20734): it calls the transaction
aborted or committed, but its contents stay open. The next commit with the same producer id would commit those too:
duplicate records, or a published position without its records.
"""

import time
from collections.abc import Iterable, Mapping, Sequence

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from ..errors import KafkaUnavailable
from ..protocol.ports import Input
from ..service import Service
from ..settings import Settings
from ..telemetry.waits import MAIN_LOOP, Wait
from .access import not_permitted
from .consumer import committed_offsets

ENDED_SECONDS = 5.0
"""The longest that one renewal waits for transactions to end. A worker's takes milliseconds; a frozen worker's lasts
until the broker's timeout, and until then no consumer could read what we publish after it.
"""

ENOUGH_SECONDS = 1.0
"""Timeout for the offsets of all partitions at once, which take milliseconds; also the minimum for one request."""

LOOK_AGAIN_SECONDS = 0.01


def see_ended(settings: Settings, service: Service, seconds: float = ENDED_SECONDS) -> None:
    """Wait until every transaction has ended that is open now in a topic that `service` publishes on, and until none
    holds an offset of its group, including partitions that another worker owns by now.

    Raises `KafkaUnavailable` if they do not end within `seconds`, and `Misconfigured`.
    """
    access = {**settings.kafka(), "log_level": 0}
    deadline = time.monotonic() + min(seconds, ENDED_SECONDS)
    # New clients each time: an old one keeps leader epochs, which are outdated after an election, and one that joins
    # its group is answered only once it has joined. This one connects while the other is asked.
    member = Consumer({**access, "group.id": service.name, "isolation.level": "read_committed"})
    try:
        admin = AdminClient(access)
        published = (*service.published_topics, service.dead_letter_topic)
        found = _partitions(admin, (*published, *service.consumed_topics, service.lane_topic), deadline)
        with MAIN_LOOP.waiting("how far the topics go that we publish on", _left(deadline)) as wait:
            _see_records(admin, [TopicPartition(topic, n) for topic in published for n in found[topic]], deadline, wait)
        inputs = [Input(topic, n) for topic in service.consumed_topics for n in found[topic]]
        with MAIN_LOOP.waiting("the committed offsets of our group, which no transaction may hold", _left(deadline)):
            _see_offsets(member, service.lane_topic, inputs, found[service.lane_topic], deadline)
    except (KafkaException, TimeoutError) as error:
        denied = not_permitted(error.args[0]) if isinstance(error, KafkaException) else None
        raise denied or KafkaUnavailable(f"offsets of the topics we publish on: {error!r}") from error
    except KafkaUnavailable as error:
        raise KafkaUnavailable(
            f"{error}: a transaction is open and does not end, if this outlasts every transaction timeout: see "
            "docs/operating.md, 'A transaction that does not end'"
        ) from error
    finally:
        member.close()


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), ENOUGH_SECONDS)


def _partitions(admin: AdminClient, topics: Iterable[str], deadline: float) -> dict[str, list[int]]:
    # This waits for a connection. Without one the next request took 1 or 3 s, one time in eight on a busy machine.
    found = {name: sorted(t.partitions) for name, t in admin.list_topics(timeout=_left(deadline)).topics.items()}
    if unknown := sorted(set(topics) - found.keys()):
        raise TimeoutError(f"{', '.join(unknown)}: no broker names it")
    return found


def _see_records(admin: AdminClient, published: Sequence[TopicPartition], deadline: float, wait: Wait) -> None:
    ends = _ends(admin, published, IsolationLevel.READ_UNCOMMITTED, deadline)
    while waiting := [
        p for p, end in _ends(admin, published, IsolationLevel.READ_COMMITTED, deadline).items() if end < ends[p]
    ]:
        if time.monotonic() > deadline:
            raise KafkaUnavailable(", ".join(sorted(waiting)))
        wait.what = f"transactions to end that are open in {', '.join(sorted(waiting))}"
        time.sleep(LOOK_AGAIN_SECONDS)


def _see_offsets(
    member: Consumer, lane_topic: str, inputs: Sequence[Input], lanes: Sequence[int], deadline: float
) -> None:
    try:
        committed_offsets(member, lane_topic, inputs, lanes, ENOUGH_SECONDS)
    except KafkaUnavailable:
        # While others are busy, there may be no moment in which no offset is held. Each one alone is free at some time.
        for source in inputs:
            _see_stable(member, lane_topic, (source,), (), deadline)
        for lane in lanes:
            _see_stable(member, lane_topic, (), (lane,), deadline)


def _see_stable(
    member: Consumer, lane_topic: str, inputs: Sequence[Input], lanes: Sequence[int], deadline: float
) -> None:
    while True:
        try:
            committed_offsets(member, lane_topic, inputs, lanes, _left(deadline))
        except KafkaUnavailable:
            # Only a poll reports that we may not look up the group's coordinator.
            event = member.poll(0)
            if event is not None and (error := event.error()) is not None and (denied := not_permitted(error)):
                raise denied from None
            # The coordinator may be starting, or moving; the client does not retry by itself.
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_AGAIN_SECONDS)
        else:
            return


def _ends(
    admin: AdminClient, partitions: Sequence[TopicPartition], level: IsolationLevel, deadline: float
) -> Mapping[str, int]:
    """Return the high watermark of each partition, or the last stable offset. Raises `TimeoutError`."""
    asked = {p: OffsetSpec.latest() for p in partitions}  # type: ignore[no-untyped-call]
    seconds = _left(deadline)
    answers = admin.list_offsets(asked, isolation_level=level, request_timeout=seconds)
    ends = {f"{p.topic}[{p.partition}]": int(a.result(2 * seconds).offset) for p, a in answers.items()}
    if unanswered := sorted(p for p, end in ends.items() if end < 0):
        # If a leader does not answer, the client returns this instead of an error.
        raise TimeoutError(f"{', '.join(unanswered)}: the leader did not answer")
    return ends
