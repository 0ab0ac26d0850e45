"""Kafka: partition logs with transactions, the transaction coordinator, the group coordinator and its offsets.

Modelled: producer id and epoch per transactional.id; open, committed and aborted records; markers, which end whatever
of the producer id is open in a partition; the last stable offset; fencing; the timeout of a transaction; EndTxn without
an epoch bump per transaction (v1, as librdkafka speaks it) and with it (v2); a broker that forgets markers; late and
twice sent requests; generations, static members, the range assignor; offsets that wait for their transaction, and the
stable fetch.

Left out: replication and loss of acknowledged data, sequence numbers, a rebalance that waits for its members (it is
complete at once, and a member learns of it when it polls next: the harsher of the two), KIP-848, retention.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

from shared.errors import GenerationLost, KafkaInDoubt, KafkaUnavailable
from shared.protocol.ports import NOTHING, Assignment, Committed, Input

TRANSACTION_ROUNDS = 14
"""transaction.timeout.ms: longer than the session timeout, so that successors meet open transactions."""

SESSION_ROUNDS = 6
"""session.timeout.ms: a process restarted at once is back before it."""

FORGOTTEN_ROUNDS = 20
"""Until an operator ends what the broker forgot: longer than every timeout."""

RECORDS, OFFSETS = "records", "offsets"

TOPIC = "consumed"
"""The topic that the service consumes."""


class State(Enum):
    """How a read_committed reader sees an entry."""

    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"
    MARKER = "marker"


@dataclass
class Entry:
    """One offset of a log."""

    value: Any
    pid: int
    state: State


class Log:
    """One partition."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.first = 0
        """The first offset left; retention removed those before it."""

    def append(self, value: Any) -> None:
        """Append records of a producer without transactions: no marker follows."""
        self.entries.append(Entry(value, 0, State.COMMITTED))

    def append_record(self, value: Any, *, committed: bool) -> None:
        """Append another service's record, in a transaction of its own."""
        self.entries.append(Entry(value, 0, State.OPEN))
        self.mark(0, State.COMMITTED if committed else State.ABORTED)

    def readable(self) -> list[Any]:
        """Return what readers see now."""
        return [value for offset in range(self.first, self.stable_end()) if (value := self.at(offset)) is not None]

    def at(self, offset: int) -> Any | None:
        """Return what a reader finds at an offset below the last stable one; None for a marker or an aborted record."""
        entry = self.entries[offset]
        return entry.value if entry.state is State.COMMITTED else None

    def mark(self, pid: int, state: State) -> None:
        """Write a marker: it ends all that the producer id has open here, of any transaction."""
        for entry in self.entries:
            if entry.pid == pid and entry.state is State.OPEN:
                entry.state = state
        self.entries.append(Entry(None, pid, State.MARKER))

    def stable_end(self) -> int:
        """The last stable offset."""
        for offset, entry in enumerate(self.entries):
            if entry.state is State.OPEN:
                return offset
        return len(self.entries)

    def committed(self) -> list[Any]:
        """Return what readers see now, or will without further action."""
        return [entry.value for entry in self.entries if entry.state is State.COMMITTED]


@dataclass
class Producer:
    """The coordinator's state of one transactional.id."""

    pid: int
    epoch: int = 0
    began: int | None = None
    """The round in which the open transaction began."""
    logs: list[Log] = field(default_factory=list)
    pending: dict[Input | int, Committed] = field(default_factory=dict)
    hung: dict[Input | int, Committed] = field(default_factory=dict)
    """Offsets whose marker was forgotten: this producer id's next one settles them, commit or abort."""
    forgotten: Collection[str] = ()
    """What loses its markers when its transaction is aborted: RECORDS, OFFSETS."""
    outcome: bool | None = None
    """Whether the last transaction was committed: the answer to a repeated EndTxn."""


class Broker:
    """One Kafka cluster, its coordinators included."""

    def __init__(self, partitions: int, version: int, rule: Callable[[str], None], changed: Callable[[], None]) -> None:
        self.inputs = {Input(TOPIC, n): Log() for n in range(partitions)}
        self.published = {n: Log() for n in range(partitions)}
        self.offsets: dict[Input | int, Committed] = {}
        self.producers: dict[int, Producer] = {}
        self.generation = 0
        self.members: dict[int, int] = {}
        """Static member (its slot) to member id."""
        self.last_heartbeat: dict[int, int] = {}
        """Member id to the round of its last heartbeat."""
        self.shares: dict[int, Assignment] = {}
        self.round = 0
        self.assignor: Callable[[Collection[int], int], dict[int, Assignment]] = by_range
        """Deals that many partitions out to members."""
        self.refuses: Callable[[Any], bool] = lambda value: False
        """Whether a topic refuses a record, say for its size."""
        self._version = version
        self._rule = rule
        self._changed = changed
        self._late: list[tuple[int, Callable[[], object]]] = []
        self._inside: list[tuple[int, Callable[[], object]]] = []
        self._forgotten: list[tuple[int, Callable[[], object]]] = []

    # ---- transactions

    def init(self, slot: int) -> int:
        """InitProducerId: end what is open, fence the previous producer; return the new epoch."""
        producer = self.producers.setdefault(slot, Producer(1_000 + slot))
        if producer.began is not None:
            self._rule("init aborts what is open")
            self._finish(producer, commit=False)
        producer.epoch += 1
        return producer.epoch

    def is_open(self) -> bool:
        """Return whether any transaction is open in the service's topics."""
        return any(log.stable_end() < len(log.entries) for log in self.published.values())

    def add(self, slot: int, epoch: int, lanes: Collection[int]) -> None:
        """AddPartitionsToTxn."""
        producer = self._current(slot, epoch)
        self._open(producer)
        producer.logs += [self.published[lane] for lane in lanes if self.published[lane] not in producer.logs]

    def append(self, slot: int, epoch: int, lane: int, values: Sequence[Any]) -> None:
        """Produce, verified as in KIP-890 part 1: only to a partition of the open transaction."""
        producer = self._current(slot, epoch)
        if self.published[lane] not in producer.logs:
            raise KafkaInDoubt("INVALID_TXN_STATE")
        self.published[lane].entries += [Entry(value, producer.pid, State.OPEN) for value in values]

    def arrive(self, slot: int) -> None:
        """Let late requests arrive inside the open transaction, as soon as one is not refused."""
        self._inside = [(of, request) for of, request in self._inside if of != slot or not self._deliver(request)]

    def stage(self, slot: int, epoch: int, offsets: Mapping[Input | int, Committed], token: Any) -> None:
        """TxnOffsetCommit: the offsets wait for the end of the transaction."""
        producer = self._current(slot, epoch)
        of, member, generation = token
        if self.members.get(of) != member or self.generation != generation:
            self._rule("an old generation is refused")
            raise GenerationLost("ILLEGAL_GENERATION")
        self._open(producer)
        producer.pending.update(offsets)

    def end(self, slot: int, epoch: int) -> int:
        """EndTxn, commit; return the next epoch. Clients abort only by a new producer."""
        producer = self._current(slot, epoch)
        if producer.began is None:
            if producer.outcome:
                return producer.epoch
            raise KafkaInDoubt("INVALID_TXN_STATE")
        self._finish(producer, commit=True)
        if self._version == 2:
            producer.epoch += 1
        return producer.epoch

    def _open(self, producer: Producer) -> None:
        if producer.began is None:
            producer.began, producer.outcome = self.round, None

    def _current(self, slot: int, epoch: int) -> Producer:
        producer = self.producers[slot]
        if producer.epoch != epoch:
            self._rule("an old epoch is fenced")
            raise KafkaInDoubt("INVALID_PRODUCER_EPOCH")
        return producer

    def forget(self, slot: int, what: Collection[str]) -> None:
        """Be killed in the middle of a transaction, and come back without some of its markers."""
        self.producers[slot].forgotten = what

    def forget_commit(self, slot: int, epoch: int) -> None:
        """Answer an EndTxn, and forget to carry it out."""
        producer = self._current(slot, epoch)
        if producer.began is not None:
            self._rule("a commit is forgotten")
            self._finish(producer, commit=False)

    def _finish(self, producer: Producer, *, commit: bool) -> None:
        forgotten, producer.forgotten = () if commit else producer.forgotten, ()
        state = State.COMMITTED if commit else State.ABORTED
        for log in producer.logs:
            if RECORDS in forgotten:
                self._rule("markers are forgotten")
                self._forget(partial(log.mark, producer.pid, State.ABORTED))
            else:
                log.mark(producer.pid, state)
        if OFFSETS in forgotten:
            self._rule("the marker of offsets is forgotten")
            producer.hung |= producer.pending
            self._forget(producer.hung.clear)
        elif producer.pending:
            if commit:
                self.offsets |= producer.hung | producer.pending
            producer.hung.clear()
        producer.began, producer.logs, producer.pending, producer.outcome = None, [], {}, commit
        self._changed()

    def _forget(self, end: Callable[[], object]) -> None:
        self._forgotten.append((self.round + FORGOTTEN_ROUNDS, end))

    # ---- the network

    def later(self, rounds: int, request: Callable[[], object]) -> None:
        """Let `request` arrive after some rounds, from any sender."""
        self._late.append((self.round + rounds, request))

    def inside(self, slot: int, request: Callable[[], object]) -> None:
        """Let `request` arrive inside a later transaction of `slot`."""
        self._inside.append((slot, request))

    def _deliver(self, request: Callable[[], object]) -> bool:
        self._rule("a late request arrives")
        try:
            request()
        except (KafkaInDoubt, GenerationLost):
            self._rule("a late request is refused")
            return False
        return True

    def pass_time(self) -> None:
        """Let one round pass."""
        self.round += 1
        due = [request for when, request in self._late if when <= self.round]
        self._late = [late for late in self._late if late[0] > self.round]
        for request in due:
            self._deliver(request)
        for slot, member in list(self.members.items()):
            if self.last_heartbeat[member] + SESSION_ROUNDS < self.round:
                self._rule("a session times out")
                self.expel(slot, member)
        for producer in self.producers.values():
            if producer.began is not None and producer.began + TRANSACTION_ROUNDS < self.round:
                self._rule("a transaction times out")
                producer.epoch += 1
                self._finish(producer, commit=False)
        for forgotten in [f for f in self._forgotten if f[0] <= self.round]:
            self._forgotten.remove(forgotten)
            forgotten[1]()

    def quiet(self) -> bool:
        """Return whether nothing is open or on its way, and dead members own nothing."""
        return (
            not self._late
            and all(self.last_heartbeat[member] >= self.round - 1 for member in self.members.values())
            and not self.is_open()
            and all(p.began is None and not p.hung for p in self.producers.values())
        )

    # ---- the group

    def join(self, slot: int) -> int:
        """Let a static member join; return its member id. One that comes back gets its share without a rebalance."""
        member = len(self.last_heartbeat)
        self.last_heartbeat[member] = self.round
        known = slot in self.members
        self.members[slot] = member
        if known:
            self._rule("a static member comes back")
        else:
            self.rebalance()
        return member

    def expel(self, slot: int, member: int | None) -> None:
        """Let a member's session end."""
        if member is not None and self.members.get(slot) == member:
            del self.members[slot]
            self.rebalance()

    def rebalance(self) -> None:
        """Deal the shares out to a new generation."""
        self.generation += 1
        self.shares = self.assignor(self.members, len(self.inputs))

    def see_settled(self, keys: Collection[Input | int]) -> None:
        """Raise `KafkaUnavailable` while a transaction holds the offset of one of `keys`."""
        if any(key in p.pending or key in p.hung for p in self.producers.values() for key in keys):
            self._rule("offsets are not stable")
            raise KafkaUnavailable("UNSTABLE_OFFSET_COMMIT")

    def stable_offsets(self, keys: Collection[Input | int]) -> dict[Input | int, Committed]:
        """OffsetFetch with require_stable."""
        self.see_settled(keys)
        return {key: self.offsets[key] for key in keys if key in self.offsets}


def by_range(slots: Collection[int], count: int) -> dict[int, Assignment]:
    """Deal out as the range assignor does: neighbours together, and partition n of every topic to the same member."""
    members = sorted(slots)
    shares = dict.fromkeys(members, NOTHING)
    for n in range(count) if members else ():
        slot = members[n * len(members) // count]
        inputs, lanes = shares[slot]
        shares[slot] = Assignment(inputs | {Input(TOPIC, n)}, lanes | {n})
    return shares
