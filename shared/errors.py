"""The errors that worker, commands and handlers raise, named by what to do about them. Those of HTTP are in `http`.

    ExactlyOnceError
    ├── Retry                  raised by a handler: the record waits, and all later ones of its key; try again
    ├── Reject                 raised by a handler: set the record aside
    │   └── Malformed          raised by the decoder: the record is not one of ours
    ├── Unavailable            back off, go on
    │   ├── DatabaseUnavailable PostgreSQL cannot do the work now; what was begun is rolled back
    │   ├── Undecided          PostgreSQL failed a handler, because of its record or its surroundings: tried alone
    │   ├── ServiceBroken      code, schema or surroundings are broken, no record is the cause; its input waits
    │   ├── ParkingFull        a record has to wait, and no more may be parked: its input waits
    │   └── KafkaUnavailable   no broker answers, or the committed offsets are not stable yet
    ├── RecoveryNeeded         the outcome of a commit is in doubt: recover, then go on
    │   ├── KafkaInDoubt       a transactional call did not plainly succeed
    │   │   └── ContentRefused Kafka refused a claimed row for what it contains
    │   ├── GenerationLost     the group moved on without this worker: expected in a rebalance
    │   ├── DatabaseInDoubt    COMMIT was sent and its reply was lost
    │   ├── SlotInDoubt        the session that holds the slot is gone: take the same slot again, or exit
    │   └── Unproven           the client reported a reason to stop, and the servers did not confirm it
    ├── Stop                   only an operator can decide, and it is proven: leave the group, stay alive and unready,
    │   │                      say what to do, and go on when it is done
    │   ├── DatabaseWentBack   Postgres is older than Kafka: restored, or failed over to a replica that lagged
    │   ├── KafkaWentBack      Kafka lost a commit that Postgres knows of
    │   ├── PositionMissing    one of the two positions was deleted or expired
    │   ├── RecordsLost        retention removed records that were not handled yet
    │   ├── OtherCluster       another cluster, or a topic that was deleted and created again
    │   ├── LanesDiffer        the numbers of lanes and of partitions are not the same
    │   ├── ContentStuck       Kafka refuses one outbox row for what it contains
    │   └── TooManyDeadLetters too many records are set aside
    ├── Exit                   end the process; its supervisor restarts it
    │   ├── DebuggerQuit       a developer has left the debugger in a handler
    │   ├── SlotLost           another process may hold this worker's slot
    │   ├── Fenced             this worker's clients are fenced: replace them if it still holds its slot, else exit
    │   │   └── NotReleased    the group still counts a predecessor as a member (KIP-848): replace them, after a pause
    │   └── TooManyRecoveries  recovery does not help
    ├── Misconfigured          the process must not start like this; names the setting and the fix
    │   └── NotLetIn           Kafka no longer admits this client; believed only if it refuses another client too
    ├── CommandFailed          an operator's command was not carried out; says why, and what to do
    ├── HandlerTooSlow         a record alone took longer than HANDLER_SECONDS_MAX: set aside the second time
    ├── HandlerStuck           the watchdog ended processes at a record: tried alone, then set aside
    ├── ProcessEnded           processes were killed or crashed at a record alone: it waits, then it is set aside
    ├── HandlingFailed         inside the cycle only: handling a batch failed, at one record or somewhere
    ├── SessionMisused         a programming error: a handler asked its session to break the transaction
    └── NotOwned               a programming error: an event was published for an aggregate that is not locked

The docstring of an error is its default message.
"""

from typing import Any


class ExactlyOnceError(Exception):
    """Something went wrong in the exactly-once library."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class Retry(ExactlyOnceError):
    """A dependency of the handler is not available: the record is kept and tried again after a pause."""


class Reject(ExactlyOnceError):
    """The record can never be handled: it is set aside to the dead letters."""


class Malformed(Reject):
    """The record is not an event in the form that this service understands."""


class Unavailable(ExactlyOnceError):
    """A server cannot answer now. Nothing was committed; it is tried again after a pause."""


class KafkaUnavailable(Unavailable):
    """Kafka cannot answer now."""


class DatabaseUnavailable(Unavailable):
    """PostgreSQL could not do the work now. Nothing was committed; it is tried again after a pause."""


class Undecided(Unavailable):
    """PostgreSQL failed a handler for what may be its record or the surroundings."""

    frames = ""
    """Where it came up."""


class ServiceBroken(Unavailable):
    """The service's code, its schema or its surroundings are broken; no record is the cause."""

    frames = ""
    """Where it came up."""


class ParkingFull(Unavailable):
    """No more records may be parked: the input waits until there is room."""


class RecoveryNeeded(ExactlyOnceError):
    """The outcome of a commit is in doubt."""

    counted = True
    """Whether this cause counts towards `TooManyRecoveries`."""


class KafkaInDoubt(RecoveryNeeded):
    """A call of the Kafka transaction did not plainly succeed; only the committed offsets tell what happened."""


class ContentRefused(KafkaInDoubt):
    """Kafka refused a claimed outbox row for what it contains; ever fewer rows are claimed until it is alone."""


class GenerationLost(RecoveryNeeded):
    """The consumer group moved on without this worker."""

    counted = False


class DatabaseInDoubt(RecoveryNeeded):
    """The reply to COMMIT was lost; the position row tells what happened."""


class SlotInDoubt(RecoveryNeeded):
    """The database session that holds this worker's slot was lost."""


class Unproven(RecoveryNeeded):
    """The client reported a reason to stop, and the servers did not confirm it."""

    counted = False


class Stop(ExactlyOnceError):
    """Kafka and PostgreSQL disagree in a way that only an operator can decide."""


class DatabaseWentBack(Stop):
    """PostgreSQL is older than Kafka."""


class KafkaWentBack(Stop):
    """Kafka lost a commit that PostgreSQL knows of."""

    held: Any = None
    """An input and its position. While that stays, the topic counts as truncated, even if it grows past it."""


class PositionMissing(Stop):
    """A position was deleted or has expired."""


class RecordsLost(Stop):
    """Retention removed records that were not handled yet."""


class OtherCluster(Stop):
    """The Kafka cluster or a topic is not the one that the positions belong to."""


class LanesDiffer(Stop):
    """The numbers of lanes and of partitions are not the same."""


class ContentStuck(Stop):
    """Kafka refuses one outbox row for what it contains."""

    def __init__(self, message: str | None = None, event_id: str = "") -> None:
        super().__init__(message)
        self.event_id = event_id
        """The event id of the row."""


class TooManyDeadLetters(Stop):
    """Too many records are set aside."""


class Exit(ExactlyOnceError):
    """The process must end and be restarted."""


class DebuggerQuit(Exit):
    """The debugger was left inside a handler: the batch is rolled back, and nothing is counted against its records."""


class SlotLost(Exit):
    """This worker's slot was lost, and another process may hold it now."""


class Fenced(Exit):
    """This worker's consumer was fenced: by its own rejoining, or by another process with its group.instance.id."""


class NotReleased(Fenced):
    """The group still counts an earlier client with this worker's group.instance.id as a member (KIP-848)."""


class TooManyRecoveries(Exit):
    """Recovery was needed too often in a short time."""


class Misconfigured(ExactlyOnceError):
    """The process cannot start with these settings, servers and rights."""


class NotLetIn(Misconfigured):
    """Kafka no longer lets this process in."""


class CommandFailed(ExactlyOnceError):
    """The command was not carried out."""


class HandlingFailed(ExactlyOnceError):
    """Handling a batch failed; `__cause__` is the reason."""

    def __init__(self, record: object | None, *, unread: bool = False) -> None:
        super().__init__()
        self.record = record
        """The record that failed; None if that is not known."""
        self.unread = unread
        """Whether it could not be read now: no handler saw it, and the identity of its event is not known."""


class SessionMisused(ExactlyOnceError):
    """The session was asked for something that a handler or a request must not do."""


class HandlerTooSlow(ExactlyOnceError):
    """The handlers took longer than HANDLER_SECONDS_MAX."""


class HandlerStuck(ExactlyOnceError):
    """The watchdog ended processes at this record."""

    frames = ""
    """Where the last one was stuck."""


class ProcessEnded(ExactlyOnceError):
    """Processes were killed or crashed while they handled this record alone."""


class NotOwned(ExactlyOnceError):
    """An event was published for an aggregate that this session has neither locked nor created."""
