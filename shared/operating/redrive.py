"""`dead-letters redrive`: handle a record again that was set aside.

It is one PostgreSQL transaction: the letter is locked, its event goes into the inbox, its handlers run under the ids of
the original record, what they say goes into the outbox, and the letter is marked as done. So it happens once, whoever
dies meanwhile, and however many do it at the same time. Nothing is produced: the workers say it like everything else.
"""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError, IntegrityError

from .. import dead_letters
from ..dead_letters import Stored
from ..errors import HandlingFailed, NotDone, RecoveryNeeded, Reject, Retry, Unavailable
from ..failures import describe
from ..handling import Handlers
from ..ports import Delivery
from ..session import Session
from ..transaction import PostgresTransaction, unavailable
from . import unsaid
from .output import say
from .rules import Desk

ATTEMPTS = 3
"""A worker may hold a lock for a moment, or insert the same row first; more often than that is no coincidence."""

PAGE = 500


class Outcome(Enum):
    """What became of a letter."""

    DONE = "re-driven"
    EARLIER = "was re-driven before"
    EFFECTIVE = "had taken effect already, under the same event id; now marked as done"
    FAILED = "failed"
    DISMISSED = "was dismissed"
    UNKNOWN = "there is no such dead letter"


class Result(NamedTuple):
    """What became of a letter, and why."""

    outcome: Outcome
    detail: str = ""

    @property
    def good(self) -> bool:
        """Whether the letter is done."""
        return self.outcome not in (Outcome.FAILED, Outcome.DISMISSED, Outcome.UNKNOWN)


def redrive(desk: Desk, numbers: Sequence[int], *, every: bool, dismissed: bool) -> bool:
    """Re-drive letters in the order in which they were set aside, `dismissed` ones only if that is said too; False if
    one of them is not done then.
    """
    handlers = Handlers(desk.service)
    results = []
    for number in _every(desk) if every else sorted(set(numbers)):
        results.append(one(desk, handlers, number, dismissed=dismissed))
        outcome, detail = results[-1]
        say(f"{number}: {outcome.value}{': ' if detail else ''}{detail}")
    if not results:
        say("no dead letter waits")
    elif every:
        done = sum(result.good for result in results)
        say(f"{len(results):,} dead letters: {done:,} done, {len(results) - done:,} not done")
    return all(result.good for result in results)


def _every(desk: Desk) -> Iterator[int]:
    number = 0
    while True:
        with desk.engine.begin() as connection:
            page = dead_letters.waiting(connection, number, PAGE)
        if not page:
            return
        yield from page
        number = page[-1]


def one(desk: Desk, handlers: Handlers, number: int, *, dismissed: bool = False) -> Result:
    """Re-drive one letter. If it fails again it stays, with its new error.

    Raises `NotDone` if the connection was lost, and with it the knowledge of what happened.
    """
    reason: Exception = NotDone()
    for _ in range(ATTEMPTS):
        try:
            return _attempt(desk, handlers, number, dismissed=dismissed)
        except RecoveryNeeded as doubt:
            raise NotDone(f"{number}: the connection to PostgreSQL was lost: {doubt}. Run the command again") from doubt
        except Unavailable as error:
            reason = error
        except (Reject, Retry) as error:
            return _failed(desk, number, error)
        except HandlingFailed as failure:
            reason = failure.__cause__ if isinstance(failure.__cause__, Exception) else failure
            if not isinstance(reason, IntegrityError):
                return _failed(desk, number, reason)
    if isinstance(reason, Unavailable):  # this is not about the letter
        return Result(Outcome.FAILED, str(reason))
    return _failed(desk, number, reason)


def _failed(desk: Desk, number: int, reason: Exception) -> Result:
    with desk.engine.begin() as connection:
        dead_letters.failed(connection, number, reason)
    return Result(Outcome.FAILED, ": ".join(describe(reason)))


def _attempt(desk: Desk, handlers: Handlers, number: int, *, dismissed: bool) -> Result:
    with desk.engine.connect() as connection:
        session = Session(connection)
        transaction = PostgresTransaction(
            session, service=desk.service, handlers=handlers, says=desk.outbox, claim_bytes=0, warnings=[]
        )
        try:
            letter = _lock(session, number)
            if letter is None:
                return Result(Outcome.UNKNOWN)
            if letter.redriven_at is not None:
                return Result(Outcome.EARLIER, f"at {letter.redriven_at:%Y-%m-%d %H:%M:%S}")
            if letter.dismissed_at is not None and not dismissed:
                told = f"by decision {letter.dismissed_by}; --dismissed handles it nevertheless"
                return Result(Outcome.DISMISSED, told)
            result = Result(Outcome.DONE)
            if letter.record.input.topic == desk.service.lane_topic:
                unsaid.put_back(session.connection(), letter)
            elif not _handle(transaction, handlers, letter):
                result = Result(Outcome.EFFECTIVE)
            dead_letters.done(session.connection(), number)
            transaction.commit()
            return result
        finally:
            transaction.rollback()


def _lock(session: Session, number: int) -> Stored | None:
    try:
        return dead_letters.find(session.connection(), number, lock=True)
    except DBAPIError as error:
        raise unavailable(error) or error from error


def _handle(transaction: PostgresTransaction, handlers: Handlers, letter: Stored) -> bool:
    """Do what a batch would have done with the record; False if its event has taken effect already."""
    opened = handlers.open(letter.record)
    if opened is None:
        raise Reject(f"this service does not hear {letter.event_type} on {letter.record.input.topic} any more")
    if not transaction.receive([(opened.envelope.source, opened.envelope.id)]):
        return False
    transaction.handle([Delivery(letter.record, opened.envelope, opened.event, letter.epoch)])
    transaction.say()
    return True
