"""The two ports of the core, Kafka and one Postgres transaction, and the values that pass through them.

`shared.protocol.cycle` talks to the world only through `Kafka` and `Database`. Every method is one place where a
process can die, a reply can be lost or an error can come back, so a test or a simulation puts its own world behind
these ports and runs the production cycle on it. `shared.kafka.consumer` and `shared.kafka.producer` are Kafka;
`shared.postgres.positions`, `shared.postgres.inbox`, `shared.service` and `shared.postgres.outbox` are Postgres.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ..events import Envelope, Event

KEY_BYTES_MAX = 4_000
"""The key comes on top of the event and must fit beside it. A PostgreSQL index takes 2,700 bytes."""


class Input(NamedTuple):
    """A partition of a topic that the service consumes."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Record(NamedTuple):
    """One record as it came from Kafka."""

    input: Input
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] | None


class Polled(NamedTuple):
    """The result of one poll."""

    records: Sequence[Record]
    ends: Mapping[Input, int]
    """Inputs whose end was reached, and the offset of that end (after control markers)."""
    assigned: "Assignment | None"
    """The share owned now, if this poll changed it; empty when everything was revoked or lost."""
    group_metadata: Any
    """The group metadata of this batch, for `send_offsets`; None while this worker is no member."""


class Assignment(NamedTuple):
    """The share of the group's work that a worker owns."""

    inputs: frozenset[Input]
    lanes: frozenset[int]


NOTHING = Assignment(frozenset(), frozenset())


class Committed(NamedTuple):
    """A committed offset of the consumer group."""

    offset: int
    metadata: str


REPORTED = "H"
"""Metadata of an input's committed offset that one of our workers committed. Older releases committed none."""


class Position(NamedTuple):
    """The row of an input: its next offset, and the epoch of its topic."""

    next_offset: int
    epoch: int


class Arrival(NamedTuple):
    """An event that arrived: where, its identity for the inbox, and its key."""

    input: Input
    offset: int
    source: str
    event_id: str
    key: bytes = b""


class Claim(NamedTuple):
    """The row of a lane: the batch that is being published, or was published last."""

    position: int
    claim_id: str
    """Empty before the first claim."""
    rows: int
    """How many outbox rows the claim names."""


class OutboxRow(NamedTuple):
    """One claimed row, ready to be produced."""

    topic: str
    key: str
    event_id: str
    event_type: str
    event_version: int
    time: str
    data: bytes
    traceparent: str | None
    """The trace context of its cause (`shared.trace_context`)."""


class Received(NamedTuple):
    """What a transaction finds under the locks of its inputs' positions."""

    positions: dict[Input, Position]
    new: set[tuple[str, str]]
    """The (source, event id) pairs that were not received before."""
    held: set[tuple[Input, bytes]]
    """The keys that have parked records."""


class ParkedRecord(NamedTuple):
    """A record that is parked: it waits in the database, and so do all later ones of its key."""

    record: Record
    epoch: int
    """The epoch of its input when it was parked."""
    source: str
    event_id: str
    attempts: int
    """How often it was tried; 0: it only waits behind others of its key."""
    ends: int
    """1 or more: processes ended while they tried it, all but the first of them alone."""


class Waiting(NamedTuple):
    """How much is parked of one input."""

    records: int
    bytes: int
    keys: int
    oldest_seconds: float
    due_seconds: float
    """Until the first record of a key is due; 0 or less: it is due."""


class Opened(NamedTuple):
    """A record that was read: its envelope, and its event."""

    envelope: Envelope
    event: Event


class Kafka(Protocol):
    """The consumer group member and the transactional producer of one worker. Errors are those of `shared.errors`."""

    def poll(self, records: int, seconds: float) -> Polled:
        """Serve the group and return up to `records` records, waiting up to `seconds` for the first."""
        ...

    def committed(self, inputs: Collection[Input], lanes: Collection[int]) -> dict[Input | int, Committed]:
        """Read the group's committed offsets, stable ones only; partitions without one are left out."""
        ...

    def beginning(self, source: Input) -> int:
        """Return the first offset that `source` still has."""
        ...

    def read_from(self, positions: Mapping[Input, int], lanes: Collection[int]) -> None:
        """Fetch `positions` from the given offsets on, and nothing else."""
        ...

    def pause(self, inputs: Collection[Input]) -> None:
        """Fetch nothing from `inputs` until `resume`."""
        ...

    def resume(self, inputs: Collection[Input]) -> None:
        """Undo `pause`."""
        ...

    def renew(self) -> None:
        """Replace the producer with a new one of the same transactional.id, end what the old one left open, and verify
        that it has ended. Raises `KafkaUnavailable`, also while any transaction is open in a topic we publish on.
        """
        ...

    def begin(self) -> None:
        """Begin a transaction. Raises what `confirm` raises, before it begins."""
        ...

    def produce(self, rows: Sequence[OutboxRow]) -> None:
        """Add `rows` to the transaction, in order, and send them. If one is refused, a later call raises that."""
        ...

    def send_offsets(self, inputs: Mapping[Input, int], lanes: Mapping[int, Committed], group_metadata: Any) -> None:
        """Add offsets to the transaction, as the member and generation of `group_metadata`."""
        ...

    def commit(self) -> None:
        """Wait until every row is acknowledged, and commit the transaction. Raises `KafkaInDoubt` also if it succeeded
        but took suspiciously long.
        """
        ...

    def confirm(self) -> None:
        """Check that the last commit can be relied on. Raises `KafkaInDoubt` if a connection was lost since: a broker
        that dies right after it acknowledged a commit may forget it (KAFKA-20734).
        """
        ...


class Transaction(Protocol):
    """One Postgres transaction of the cycle. After an error before `commit`, the caller rolls it back."""

    def receive(self, inputs: Collection[Input], arrivals: Sequence[Arrival]) -> Received:
        """Lock the positions of `inputs` in name order; then insert the (source, event id) pairs of `arrivals` at or
        above these into the inbox. Return the positions, the new pairs, and which keys of `arrivals` are held.
        """
        ...

    def handle(self, deliveries: Sequence["Delivery"]) -> None:
        """Run the handlers of all deliveries and collect the events they publish. Raises `HandlingFailed`."""
        ...

    def set_aside(self, dead_letters: Sequence["NewDeadLetter"]) -> None:
        """Insert dead letters."""
        ...

    def park(self, parked: Sequence["NewParked"]) -> None:
        """Insert parked records, each behind those of its key; of one that is set aside too, only its place."""
        ...

    def take(self, parked: Sequence[ParkedRecord]) -> list[ParkedRecord]:
        """Delete the rows of `parked`, under the locks of their inputs' positions; return those that were there. A
        record that is set aside, and those behind it, count as not there.
        """
        ...

    def forget_received(self, parked: Sequence[ParkedRecord]) -> None:
        """Delete the events of `parked` from the inbox: they are set aside, and a redrive has to find them new."""
        ...

    def write_outbox(self) -> None:
        """Flush the handlers' changes, then insert the collected events into the outbox. Raises `HandlingFailed`,
        perhaps only at the next call that returns something, or at `commit`.
        """
        ...

    def advance(self, positions: Mapping[Input, int]) -> None:
        """Move next offsets forward, never back. Its error may come as late as that of `write_outbox`."""
        ...

    def lock_claims(self, lanes: Collection[int]) -> dict[int, Claim]:
        """Lock the claim rows of `lanes` in order."""
        ...

    def forget(self, lanes: Collection[int]) -> None:
        """Delete the outbox rows that the claims of `lanes` name: Kafka has them. Its error may come as late as that
        of `write_outbox`.
        """
        ...

    def claim(
        self, limits: Mapping[int, int], unpublished: Collection[int]
    ) -> tuple[dict[int, Claim], Sequence[OutboxRow]]:
        """Claim for each lane the next rows in id order, up to its limit, under a new claim id and the next position.
        Return these claims, and the rows of these and of the claims of `unpublished`, as `claimed` does.

        Lanes without rows are left unchanged and omitted from the result.
        """
        ...

    def claim_less(self, limits: Mapping[int, int]) -> dict[int, Claim]:
        """Claim again, at the same position and under a new claim id, only the first rows of each unpublished claim."""
        ...

    def claimed(self, lanes: Collection[int]) -> Sequence[OutboxRow]:
        """Read the claimed rows of `lanes`, in id order within each lane."""
        ...

    def commit(self) -> None:
        """Commit. Raises `DatabaseInDoubt` if the outcome is not known."""
        ...

    def rollback(self) -> None:
        """Undo everything; never raises."""
        ...


class Database(Protocol):
    """The one database session of a worker, which holds its slot too."""

    def hold_slot(self) -> None:
        """Make sure that the slot's lock is still held; on a new connection, take it again. Raises `SlotLost`."""
        ...

    def attempt(self, records: Sequence[Record]) -> None:
        """Note, in a separate transaction, that `records` are about to be handled: for the next process, if this one is
        killed. `Transaction.advance` and `rollback` remove the note.
        """
        ...

    def begin(self) -> Transaction:
        """Begin a transaction, READ COMMITTED."""
        ...

    def positions(self, inputs: Collection[Input]) -> dict[Input, Position]:
        """Read the rows of `inputs`; missing ones are left out."""
        ...

    def start_positions(self, beginnings: Mapping[Input, int]) -> None:
        """Insert the rows of inputs that are consumed for the first time."""
        ...

    def claims(self, lanes: Collection[int]) -> dict[int, Claim]:
        """Read the rows of `lanes`; missing ones are left out."""
        ...

    def waiting(self, inputs: Collection[Input]) -> dict[Input, Waiting] | None:
        """Return what is parked of `inputs`, those with any; None if the schema does not accept parked records yet.

        Asked after `positions`: whoever parks a record later moves a next offset that was read before.
        """
        ...

    def next_parked(self, inputs: Collection[Input], most: int) -> list[ParkedRecord]:
        """Choose parked records to try: those of keys whose first one is due, in order, up to `most`; none that is set
        aside too, nor one behind it; one at which a process ended is alone. Note the attempt in the same short
        transaction: none of them is due soon, and whoever chooses them next, if this process ends, knows. Notes of
        attempts that this process outlived are withdrawn.
        """
        ...

    def tried(self, again: Sequence[ParkedRecord], failed: ParkedRecord | None, error: Exception) -> None:
        """Withdraw the notes of an attempt that was rolled back: `again` are due now, `failed` after a pause."""
        ...

    def unpublished(self, lanes: Collection[int]) -> bool:
        """Whether `lanes` have any outbox row that no claim names, without locking anything."""
        ...


class Delivery(NamedTuple):
    """A record on its way to its handlers."""

    record: Record
    envelope: Envelope
    event: Event
    epoch: int
    """The epoch of the record's input; part of the ids of the events published while handling it."""


class NewParked(NamedTuple):
    """A record to park."""

    record: Record
    epoch: int
    source: str
    event_id: str
    error: Exception | None
    """Why; None if it only waits behind others of its key."""
    first: bool
    """Whether its key was free."""
    aside: bool = False
    """Whether it is a dead letter too: only a decision of a person ends its wait."""


class NewDeadLetter(NamedTuple):
    """A record to set aside, and why."""

    record: Record
    epoch: int
    envelope: Envelope | None
    """None if the record has none."""
    error: Exception
