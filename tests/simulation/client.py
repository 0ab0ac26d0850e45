"""The Kafka port of one simulated process: a group member and a transactional producer.

It keeps the port's contract as `shared.kafka.consumer` and `shared.kafka.producer` do: after a call that did not
plainly succeed it raises `KafkaInDoubt`, even if the call succeeded and a copy of its request may still be on its way.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from shared.errors import ContentRefused, Fenced, GenerationLost, KafkaInDoubt, KafkaUnavailable
from shared.protocol.ports import NOTHING, REPORTED, Committed, Input, OutboxRow, Polled, Record
from tests.simulation.broker import OFFSETS, RECORDS, Broker
from tests.simulation.faults import Fault

LATE_ROUNDS = 3
"""How long a late request takes: its sender may have recovered by then, or not."""

UNSURE = (Fault.REFUSE, Fault.LOSE, Fault.LATE, Fault.LATE_INSIDE)
"""Faults after which a sender does not know whether its request took effect."""

FORGETFUL = {
    Fault.FORGET: (RECORDS,),
    Fault.FORGET_OFFSETS: (OFFSETS,),
    Fault.FORGET_ALL: (RECORDS, OFFSETS),
}
"""What a broker killed within a transaction forgets."""

REVOKED = -1
"""The generation of a member that owns nothing and awaits its share."""

At = Callable[..., Fault]
"""Reaches a call; offers extra faults that it may meet."""


def lane_of(key: str) -> int:
    """Keys begin with a letter; a is in lane 0, b in lane 1."""
    return (ord(key[0]) - ord("a")) % 2


class Client:
    """Implements `shared.protocol.ports.Kafka`."""

    eager = True
    """All is revoked before a new share is given, as in the classic group protocol, the harsher of the two. Otherwise,
    as under KIP-848, changes come at once.
    """

    key = staticmethod(lambda word: word[-1])
    """Returns the key of the record of a word."""

    def __init__(self, broker: Broker, slot: int, at: At) -> None:
        self._broker = broker
        self.slot = slot
        self._at = at
        self.member: int | None = None
        self._generation = REVOKED
        self._reading: dict[Input, int] = {}
        self._paused: set[Input] = set()
        self._told: dict[Input, int] = {}
        self._epoch: int | None = None
        self._rows: list[OutboxRow] = []
        """Rows on their way."""
        self._ahead = False
        """Whether rows arrive before the offsets of their transaction; in the next one they arrive behind them."""
        self._begun = False
        self._spoilt: KafkaInDoubt | GenerationLost | None = None
        """The error of the open transaction: nothing but a new producer helps."""
        self._empty = True
        """Whether the broker does not know this transaction."""
        self._doubted = False
        """Whether a connection was lost since the last commit."""

    # ---- the member

    def poll(self, records: int, seconds: float) -> Polled:
        if self._at("kafka.poll", Fault.REFUSE) is Fault.REFUSE:
            raise KafkaUnavailable
        broker, assigned = self._broker, None
        if self.member is None:
            self.member = broker.join(self.slot)
        elif broker.members.get(self.slot) != self.member:
            if self.slot in broker.members:
                raise Fenced
            self.member, self._generation, self._reading = None, REVOKED, {}
            return Polled([], {}, NOTHING, None)
        elif self.eager and self._generation not in {REVOKED, broker.generation}:
            # Everything is revoked in one poll, and assigned in a later one.
            revoked, self._generation, self._reading = self._generation, REVOKED, {}
            return Polled([], {}, NOTHING, (self.slot, self.member, revoked))
        if self._generation != broker.generation:
            self._generation, self._reading = broker.generation, {}
            assigned = broker.shares[self.slot]
        found, ends = self._fetch(records)
        return Polled(found, ends, assigned, (self.slot, self.member, self._generation))

    def _fetch(self, most: int) -> tuple[list[Record], dict[Input, int]]:
        found: list[Record] = []
        ends: dict[Input, int] = {}
        for source in sorted(self._reading.keys() - self._paused):
            log = self._broker.inputs[source]
            end = log.stable_end()
            while len(found) < most and self._reading[source] < end:
                offset = self._reading[source]
                self._reading[source] += 1
                if (consumed := log.at(offset)) is not None:
                    word, event_id = consumed
                    key = self.key(word).encode()
                    found.append(Record(source, offset, key, word.encode(), [("id", event_id.encode())]))
            if self._reading[source] == end and self._told.get(source) != end:
                self._told[source] = ends[source] = end
        return found, ends

    def committed(self, inputs: Collection[Input], lanes: Collection[int]) -> dict[Input | int, Committed]:
        if self._at("kafka.committed", Fault.REFUSE) is Fault.REFUSE:
            raise KafkaUnavailable
        return self._broker.stable_offsets([*inputs, *lanes])

    def beginning(self, source: Input) -> int:
        if self._at("kafka.beginning", Fault.REFUSE) is Fault.REFUSE:
            raise KafkaUnavailable
        return self._broker.inputs[source].first

    def read_from(self, positions: Mapping[Input, int], lanes: Collection[int]) -> None:
        self._at("kafka.read_from")
        self._reading, self._paused, self._told = dict(positions), set(), {}

    def pause(self, inputs: Collection[Input]) -> None:
        self._at("kafka.pause")
        self._paused |= set(inputs)

    def resume(self, inputs: Collection[Input]) -> None:
        self._at("kafka.resume")
        self._paused -= set(inputs)

    # ---- the producer

    def renew(self) -> None:
        self._epoch, self._rows, self._doubted = None, [], False
        self._begun, self._spoilt = False, None
        fault = self._at("kafka.renew", Fault.REFUSE, Fault.LOSE)
        if fault is Fault.REFUSE:
            raise KafkaInDoubt
        epoch = self._broker.init(self.slot)
        if fault is Fault.LOSE:
            raise KafkaInDoubt
        if self._broker.is_open():
            raise KafkaUnavailable("a transaction is open where we publish")
        self._broker.see_settled((*self._broker.inputs, *self._broker.published))
        self._epoch = epoch

    def begin(self) -> None:
        if self._at("kafka.begin", Fault.REFUSE) is Fault.REFUSE or self._doubted:
            raise KafkaInDoubt
        self._known_epoch()
        if self._spoilt is not None:
            raise self._spoilt
        if self._begun:
            raise KafkaInDoubt("a transaction was begun before")
        self._rows, self._begun, self._empty, self._ahead = [], True, True, not self._ahead

    def produce(self, rows: Sequence[OutboxRow]) -> None:
        fault = self._at("kafka.produce", Fault.REFUSE)
        self._begin_call()
        if fault is Fault.REFUSE:
            raise KafkaInDoubt
        self._rows += rows
        self._spoilt = None

    def _deliver(self) -> None:
        """Send the rows, and wait until they are acknowledged. The client does so on its own; a failure is found by the
        call that comes after it.
        """
        if not self._rows:
            return
        # A row that is refused when it is alone stops the worker, rightly: only an operator can decide.
        content = (Fault.CONTENT,) if len(self._rows) > 1 else ()
        fault = self._at("kafka.deliver", *UNSURE, *FORGETFUL, *content)
        epoch, rows, self._rows, self._empty = self._begin_call(), self._rows, [], False
        lanes = sorted({lane_of(row.key) for row in rows})
        if fault is Fault.CONTENT or any(self._broker.refuses(row) for row in rows):
            self._spoilt = ContentRefused()
            raise self._spoilt
        if fault is not Fault.REFUSE:
            self._broker.add(self.slot, epoch, lanes)
        if fault in FORGETFUL:
            self.be_forgotten(fault)

        def produce() -> None:
            for lane in lanes:
                self._broker.append(self.slot, epoch, lane, [row for row in rows if lane_of(row.key) == lane])

        self._send(fault, produce)
        self._broker.arrive(self.slot)
        self._spoilt = None

    def send_offsets(self, inputs: Mapping[Input, int], lanes: Mapping[int, Committed], group_metadata: Any) -> None:
        if self._ahead:
            self._deliver()
        fault = self._at("kafka.send_offsets", *UNSURE)
        if group_metadata is None:
            raise GenerationLost
        epoch, self._empty = self._begin_call(), False
        offsets: dict[Input | int, Committed] = dict(lanes.items())
        offsets |= {source: Committed(offset, REPORTED) for source, offset in inputs.items()}
        try:
            self._send(fault, lambda: self._broker.stage(self.slot, epoch, offsets, group_metadata))
        except GenerationLost as lost:
            self._spoilt = lost
            raise
        self._broker.arrive(self.slot)
        self._spoilt = None

    def commit(self) -> None:
        self._deliver()
        fault = self._at("kafka.commit", *UNSURE, Fault.TWICE, *FORGETFUL, Fault.FORGET_COMMIT, Fault.DIE_LATE)
        epoch = self._begin_call()
        if self._empty:
            self._begun, self._spoilt = False, None
            return
        if fault is Fault.FORGET_COMMIT:
            self._broker.forget(self.slot, (RECORDS, OFFSETS))
            self._broker.forget_commit(self.slot, epoch)
            self._begun, self._spoilt = False, None
            self.lose_connection()
            return
        if fault in FORGETFUL:
            self.be_forgotten(fault)
        self._send(fault, lambda: self._ended(self._broker.end(self.slot, epoch)))
        self._begun, self._spoilt = False, None
        if fault is Fault.TWICE:
            self._suspect()

    def confirm(self) -> None:
        self._at("kafka.confirm")
        self._known_epoch()
        if self._doubted:
            raise KafkaInDoubt("a connection was lost")

    def lose_connection(self) -> None:
        """Lose a connection after a commit's answer, which may be forgotten."""
        self._doubted = True

    def end_late(self) -> None:
        """Let a COMMIT that the process sent before it died arrive later."""
        epoch = self._known_epoch()
        self._broker.later(LATE_ROUNDS, lambda: self._broker.end(self.slot, epoch))

    def be_forgotten(self, fault: Fault) -> None:
        """Let the broker be killed, and forget to end this transaction."""
        self._broker.forget(self.slot, FORGETFUL[fault])

    def _suspect(self) -> None:
        raise KafkaInDoubt("committed, but under suspicion")

    def _ended(self, epoch: int) -> None:
        self._epoch = epoch

    def _begin_call(self) -> int:
        """Begin a call within the transaction, which fails unless the call plainly succeeds; return the epoch."""
        epoch = self._known_epoch()
        if self._spoilt is not None:
            raise self._spoilt
        if not self._begun:
            raise KafkaInDoubt("no transaction was begun")
        self._spoilt = KafkaInDoubt("the transaction failed")
        return epoch

    def _known_epoch(self) -> int:
        if self._epoch is None:
            raise KafkaInDoubt("there is no producer")
        return self._epoch

    def _send(self, fault: Fault, request: Callable[[], object]) -> None:
        """Send a request through a network that may lose, delay or double it."""
        if fault is Fault.LATE:
            self._broker.later(LATE_ROUNDS, request)
        elif fault is Fault.LATE_INSIDE:
            self._broker.inside(self.slot, request)
        elif fault not in {Fault.REFUSE, *FORGETFUL}:
            request()
        if fault is Fault.TWICE:
            self._broker.inside(self.slot, request)
        if fault in {*UNSURE, *FORGETFUL}:
            raise KafkaInDoubt
