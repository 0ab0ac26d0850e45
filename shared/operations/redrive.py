"""`dead-letters redrive`: handle again a record that was set aside.

One PostgreSQL transaction locks the dead letter, enters its event in the inbox, runs its handlers with its value, or
the newest edit of it (`shared.operations.editing`), under the ids of the original record, writes what they publish to
the outbox, and marks the dead letter as done. If it holds its key, the records behind it are free with the same COMMIT,
and one that waits before it comes first. So it takes effect once, whichever process dies, and however many run at the
same time. The command itself produces nothing: the workers publish the events like all others.
"""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError, IntegrityError

from ..errors import CommandFailed, HandlingFailed, RecoveryNeeded, Reject, Retry, Unavailable
from ..events import Envelope
from ..postgres import dead_letters, inbox, parked
from ..postgres.dead_letters import DeadLetter
from ..postgres.handlers import Handlers
from ..postgres.transaction import PostgresTransaction, unavailable
from ..protocol.ports import Delivery, Record
from ..session import Session
from ..telemetry.failures import describe
from . import editing, maintenance, outbox
from .maintenance import Context
from .output import echo

ATTEMPTS = 3
"""A worker may briefly hold a lock, or insert the same row first; that often is not a coincidence."""

PAGE = 500


class Outcome(Enum):
    """The outcome of a redrive."""

    DONE = "re-driven"
    EARLIER = "was re-driven before"
    EFFECTIVE = "had taken effect already, under the same event id; now marked as done"
    FAILED = "failed"
    DISMISSED = "was dismissed"
    UNKNOWN = "there is no such dead letter"


class Result(NamedTuple):
    """The outcome of a redrive, and its reason."""

    outcome: Outcome
    detail: str = ""

    @property
    def good(self) -> bool:
        """Whether the dead letter is done."""
        return self.outcome not in (Outcome.FAILED, Outcome.DISMISSED, Outcome.UNKNOWN)


def redrive(context: Context, numbers: Sequence[int], *, every: bool, dismissed: bool) -> bool:
    """Redrive dead letters in the order in which they were set aside, `dismissed` ones only on request; False if one
    of them is not done afterwards.
    """
    handlers = Handlers(context.service)
    results = []
    for number in _every(context) if every else sorted(set(numbers)):
        results.append(one(context, handlers, number, dismissed=dismissed))
        outcome, detail = results[-1]
        echo(f"{number}: {outcome.value}{': ' if detail else ''}{detail}")
    if not results:
        echo("no dead letter waits")
    elif every:
        done = sum(result.good for result in results)
        echo(f"{len(results):,} dead letters: {done:,} done, {len(results) - done:,} not done")
    return all(result.good for result in results)


def _every(context: Context) -> Iterator[int]:
    number = 0
    while True:
        with context.engine.begin() as connection:
            page = dead_letters.waiting(connection, number, PAGE)
        if not page:
            return
        yield from page
        number = page[-1]


def one(context: Context, handlers: Handlers, number: int, *, dismissed: bool = False) -> Result:
    """Redrive one dead letter. If it fails again it stays, with its new error.

    Raises `CommandFailed` if the connection was lost, which leaves the outcome unknown.
    """
    reason: Exception = CommandFailed()
    for _ in range(ATTEMPTS):
        try:
            return _attempt(context, handlers, number, dismissed=dismissed)
        except RecoveryNeeded as doubt:
            raise CommandFailed(
                f"{number}: the connection to PostgreSQL was lost: {doubt}. Run the command again"
            ) from doubt
        except Unavailable as error:
            reason = error
        except (Reject, Retry) as error:
            return _failed(context, number, error)
        except HandlingFailed as failure:
            reason = failure.__cause__ if isinstance(failure.__cause__, Exception) else failure
            if not isinstance(reason, IntegrityError):
                return _failed(context, number, reason)
    if isinstance(reason, Unavailable):  # not due to the dead letter
        return Result(Outcome.FAILED, str(reason))
    return _failed(context, number, reason)


def _failed(context: Context, number: int, reason: Exception) -> Result:
    with context.engine.begin() as connection:
        dead_letters.failed(connection, number, reason)
    return Result(Outcome.FAILED, ": ".join(describe(reason)))


def _attempt(context: Context, handlers: Handlers, number: int, *, dismissed: bool) -> Result:
    with context.engine.connect() as connection:
        session = Session(connection)
        transaction = PostgresTransaction(
            session, service=context.service, handlers=handlers, outbox=context.outbox, claim_bytes=0, warnings=[]
        )
        try:
            dead_letter = _lock(session, number)
            if dead_letter is None:
                return Result(Outcome.UNKNOWN)
            if dead_letter.redriven_at is not None:
                return Result(Outcome.EARLIER, f"at {dead_letter.redriven_at:%Y-%m-%d %H:%M:%S}")
            if dead_letter.dismissed_at is not None and not dismissed:
                detail = f"by decision {dead_letter.dismissed_by}; --dismissed handles it nevertheless"
                return Result(Outcome.DISMISSED, detail)
            if (waits := parked.before(session.connection(), number)) is not None:
                detail = f"the record at offset {waits} has its key, waits, and comes first: `parked list`"
                return Result(Outcome.FAILED, detail)
            dead_letter, edit = editing.with_edit(session.connection(), dead_letter)
            result = Result(Outcome.DONE, f"as edited by {edit}" if edit else "")
            if dead_letter.record.input.topic == context.service.lane_topic:
                outbox.put_back(session.connection(), dead_letter)
            elif not _handle(transaction, session, handlers, dead_letter):
                result = Result(Outcome.EFFECTIVE)
            dead_letters.done(session.connection(), number)
            parked.release(session.connection(), [number])
            before, after = {"ids": [number]}, {"outcome": result.outcome.value}
            maintenance.decided(session.connection(), "dead-letters redrive", "dead letters", before, after)
            transaction.commit()
            return result
        finally:
            transaction.rollback()


def _lock(session: Session, number: int) -> DeadLetter | None:
    try:
        return dead_letters.find(session.connection(), number, lock=True)
    except DBAPIError as error:
        raise unavailable(error) or error from error


def _received(session: Session, record: Record, envelope: Envelope) -> bool:
    """Enter an event in the inbox; False if it has already taken effect: a duplicate that waits has not."""
    try:
        new = inbox.receive(session.connection(), envelope.source, envelope.id)
        return new or parked.take_duplicate(session.connection(), record, envelope.source, envelope.id)
    except DBAPIError as error:
        raise unavailable(error) or error from error


def _handle(transaction: PostgresTransaction, session: Session, handlers: Handlers, dead_letter: DeadLetter) -> bool:
    """Handle the record as a batch would; False if its event has already taken effect."""
    opened = handlers.open(dead_letter.record)
    if opened is None:
        raise Reject(f"this service no longer consumes {dead_letter.event_type} on {dead_letter.record.input.topic}")
    if not _received(session, dead_letter.record, opened.envelope):
        return False
    transaction.handle([Delivery(dead_letter.record, opened.envelope, opened.event, dead_letter.epoch)])
    transaction.write_outbox()
    return True
