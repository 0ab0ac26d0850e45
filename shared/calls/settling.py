"""What an answer does: one transaction has its effects, the events that it causes, and the end of the call.

    1  nobody has taken the call since: else the answer changes nothing
    2  the service's function decides, with its rows locked; what it changed is undone if it is to be asked again
    3  the events are inserted into the outbox
    4  the call is deleted, if the lease is still this caller's; and the next call of its key is due
    5  COMMIT

The aggregate is locked before the call's row, as where a handler makes one: the other order would deadlock. So step 1
is a look, and step 4 decides.

Several answers may share one transaction: step 2 is done for each of them. If anything fails, all of it is undone, and
each is written in a transaction of its own. So one that fails takes no other with it.
"""

import hashlib
import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from ..errors import Retry
from ..events import Event
from ..postgres import blame
from ..postgres.outbox import Outbox
from ..postgres.transaction import unavailable
from ..scheduling import Change
from ..session import Session
from ..telemetry import log_context
from ..telemetry.failures import LOGGED_MAX, describe, frames
from ..telemetry.metrics import log
from . import queue
from .declaration import Again, Answer, Call, Done, GivenUp, Never, Request, Verdict
from .queue import Due, Overtaken

ID_MAX = 200
"""Characters of an event's id. A call that an answer makes appends to the id of the one before; beyond this the
beginning becomes a hash, so that a chain of calls may go on for ever."""

STUCK_SECONDS = 30.0
"""Before a call is asked again whose answer the service could not handle: as long as a deployment takes."""

TOGETHER_LOCK_MS = 100
"""How long answers that share a transaction wait for a lock. They lock rows in the order in which they came, so they
may be part of a deadlock: they give up before PostgreSQL looks for one (`deadlock_timeout`, 1 s) and ends the other
side.
"""

TOGETHER_SECONDS = 1.0
"""Nothing is added to a transaction that takes longer: the leases of its calls run out."""

LOCKED = frozenset({"55P03", "40P01"})
"""SQLSTATEs of a lock that was not had: the time for it was up, or it would have been a deadlock."""

Ended = Literal["done", "never", "again", "given_up", "stuck"]


class Outcome(NamedTuple):
    """What became of an attempt."""

    ended: Ended
    detail: str = ""
    due: frozenset[str] = frozenset()
    """The destinations for which a call is due now that was behind this one."""


class NoAnswer(Exception):
    """An attempt that no answer came of."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.why = why
        self.sent = sent
        """Whether the destination may have got the request."""


class Settling:
    """Writes what attempts came to."""

    def __init__(
        self,
        engine: Engine,
        outbox: Outbox,
        service: str,
        calls: Collection[type[Call]],
        *,
        finally_: Callable[[Connection], None] = lambda _: None,
    ) -> None:
        """`finally_` is called in each transaction that finishes a call, before its commit."""
        self._engine = engine
        self._finally = finally_
        self._outbox = outbox
        self._service = service
        self._kinds = {(kind.__name__, kind.version): kind for kind in calls}
        self._decoders = {name: msgspec.json.Decoder(kind) for name, kind in self._kinds.items()}
        self._random = random.Random()  # noqa: S311 - it spreads attempts in time

    def call_of(self, due: Due) -> Call | None:
        """Return the call as it was made; None if this version of the service does not know it. Raises what msgspec
        raises for a call that another version has written in another form.
        """
        decoder = self._decoders.get((due.call_type, due.call_version))
        return None if decoder is None else decoder.decode(due.data)

    def request_of(self, due: Due) -> Request:
        """Return what is sent. Raises whatever the service's own code raises."""
        call = self.call_of(due)
        if call is None:
            raise _unknown(due)
        return call.request()

    def answered(self, due: Due, answer: Answer) -> Outcome:
        """Let the service decide what `answer` means. Raises `Overtaken`, or `DBAPIError` if the database cannot."""
        try:
            [verdict], following = self._decided([(due, self._decision(due, answer))])
        except _AgainWanted as wanted:
            return self._again(due._replace(stuck=False), wanted.why, wanted.after, maybe_done=True)
        except (Overtaken, DBAPIError) as error:
            if unavailable(error) or isinstance(error, Overtaken):
                raise
            return self.stuck(due, error)
        except Exception as error:  # noqa: BLE001 - one call must not end the process
            return self.stuck(due, error)
        return _outcome(verdict, following)

    def answered_together(self, answers: Sequence[tuple[Due, Answer]]) -> list[Outcome] | None:
        """Do the same for several calls in one transaction, for as many of the first as there is time; return None if
        nothing was changed, because something failed or had to wait. Then `answered` does it for each. Raises
        `DBAPIError` if the database cannot.
        """
        try:
            decisions = [(due, self._decision(due, answer)) for due, answer in answers]
            verdicts, following = self._decided(decisions, lock_ms=TOGETHER_LOCK_MS)
        except Exception as error:
            if unavailable(error) and blame.state_of(error) not in LOCKED:
                raise
            return None  # whose it is, and what it means, `answered` finds out
        return [_outcome(verdict, following) for verdict in verdicts]

    def _decision(self, due: Due, answer: Answer) -> Callable[[Session], Verdict]:
        def decide(session: Session) -> Verdict:
            call = self.call_of(due)
            assert call is not None  # it was asked
            return call.answered(answer, session)

        return decide

    def failed(self, due: Due, failure: NoAnswer) -> Outcome:
        """Note an attempt without an answer. Raises what `answered` raises."""
        return self._again(due, failure.why, 0.0, maybe_done=due.maybe_done or failure.sent)

    def give_up(self, due: Due, reason: Literal["attempts", "deadline", "operator"], failure: str = "") -> Outcome:
        """Publish what the service publishes instead of an answer. Raises what `answered` raises."""
        last = failure or due.failure or "it was never asked"
        why = GivenUp(reason, due.attempts, due.maybe_done, last)

        def decide(session: Session) -> Verdict:
            call = self.call_of(due)
            if call is None:
                raise _unknown(due)
            return Done(*events_of(call.given_up(why, session), call))

        try:
            _, following = self._decided([(due, decide)])
        except (Overtaken, DBAPIError) as error:
            if unavailable(error) or isinstance(error, Overtaken):
                raise
            return self.stuck(due, error, maybe_done=due.maybe_done, counted=True)
        except Exception as error:  # noqa: BLE001 - as above
            return self.stuck(due, error, maybe_done=due.maybe_done, counted=True)
        return Outcome("given_up", f"{reason}: {last}", following)

    def drop(self, due: Due) -> Outcome:
        """Finish a call for which nothing is published: its class may be gone. Raises what `answered` raises."""
        self._decided([(due, lambda _: Done())])
        return Outcome("given_up", "operator: nothing is published")

    def release(self, due: Due) -> None:
        """Give back a call that was not asked. Raises what `answered` raises."""
        with self._engine.begin() as connection:
            queue.again(
                connection,
                due,
                seconds=0.0,
                failure=due.failure or "",
                maybe_done=due.maybe_done,
                stuck=due.stuck,
                counted=False,
            )

    def _decided(
        self, decisions: Sequence[tuple[Due, Callable[[Session], Verdict]]], *, lock_ms: int | None = None
    ) -> tuple[list[Done | Never], frozenset[str]]:
        """Steps 1 to 5, for one call or for as many as there is time; return what was decided, and the destinations for
        which a call is due now that was behind one of these.
        """
        calls = [due for due, _ in decisions]
        until = time.monotonic() + TOGETHER_SECONDS
        verdicts: list[Done | Never] = []
        with Session(self._engine) as session, session.begin():
            queue.hold(session.connection(), calls, lock_ms=lock_ms)
            session.settler = partial(self._outbox.settle, session)
            for due, decide in decisions:
                verdicts.append(self._verdict(session, due, decide))
                if time.monotonic() > until:
                    break
            following = queue.finish(session.connection(), calls[: len(verdicts)], self._outbox.insertion(session))
            self._finally(session.connection())
        return verdicts, following

    def _verdict(self, session: Session, due: Due, decide: Callable[[Session], Verdict]) -> Done | Never:
        """Step 2, and what it publishes is collected."""
        session.publisher = session.scheduler = self._publisher(due, session)
        try:
            with session.lent(), log_context.bound(partial(facts, due)):
                verdict = decide(session)
                if isinstance(verdict, Again):
                    raise _AgainWanted(verdict.why, verdict.after)
                if not isinstance(verdict, Done | Never):
                    raise TypeError(
                        f"{due.call_type}.answered returned {type(verdict).__name__}; it returns Done, Again or Never"
                    )
                for event in verdict.events:
                    session.publish(event)
        except Retry as retry:
            raise _AgainWanted(str(retry), 0.0) from retry
        finally:
            session.publisher = session.scheduler = None
        return verdict

    def _publisher(self, due: Due, session: Session) -> Callable[..., None]:
        """Return what publishes an event, or schedules it."""
        numbers: dict[str, int] = {}

        def publish(event: Event, change: Change | None = None) -> None:
            name = type(event).__name__
            n = numbers[name] = numbers.get(name, -1) + 1
            event_id = caused_id(self._service, due.call_id, name, n)
            self._outbox.collect(session, event, event_id, due.traceparent, change)

        return publish

    def _again(self, due: Due, why: str, after: float, *, maybe_done: bool) -> Outcome:
        """Ask again after a pause, or give up. A call at whose answer the service failed is only given up by hand."""
        kind = self._kinds.get((due.call_type, due.call_version))
        if kind is None:
            return self.stuck(due, _unknown(due), maybe_done=maybe_done)
        if due.attempts >= kind.attempts and not due.stuck:
            return self.give_up(due._replace(maybe_done=maybe_done), "attempts", why)
        seconds = max(self.pause(kind, due.attempts), min(after, kind.destination.pause_seconds_max))
        with self._engine.begin() as connection:
            queue.again(connection, due, seconds=seconds, failure=why, maybe_done=maybe_done, stuck=due.stuck)
        return Outcome("again", why)

    def stuck(self, due: Due, error: Exception, *, maybe_done: bool = True, counted: bool = False) -> Outcome:
        """Keep a call that the service's own code fails at: it is asked again, and waits for a better version of it."""
        name, detail = describe(error)
        log.error("call_stuck", error=name, detail=detail[:LOGGED_MAX], traceback=frames(error))
        with self._engine.begin() as connection:
            queue.again(
                connection,
                due,
                seconds=STUCK_SECONDS * self._random.uniform(0.5, 1.0),
                failure=f"{name}: {detail}",
                maybe_done=maybe_done,
                stuck=True,
                counted=counted,
            )
        return Outcome("stuck", f"{name}: {detail}")

    def pause(self, kind: type[Call], attempts: int) -> float:
        """Return the seconds before the next attempt: twice as many each time, and a random part of them."""
        to = kind.destination
        longest = min(to.pause_seconds_max, to.pause_seconds_min * 2.0 ** min(attempts - 1, 60))
        return longest * self._random.uniform(0.5, 1.0)


def facts(due: Due) -> dict[str, object]:
    """The fields of a call in each line of the log."""
    return {
        "call_id": due.call_id[: log_context.VALUE_MAX],
        "call_type": f"{due.call_type}.v{due.call_version}",
        "destination": due.destination,
        "key": due.key[: log_context.VALUE_MAX],
        **log_context.trace(due.traceparent),
    }


def _outcome(verdict: Done | Never, following: frozenset[str]) -> Outcome:
    return Outcome("never", verdict.why, following) if isinstance(verdict, Never) else Outcome("done", "", following)


def _unknown(due: Due) -> LookupError:
    """A newer version of the service made the call, or one that still had the class."""
    return LookupError(f"this version of the service knows no call {due.call_type}.v{due.call_version}")


class _AgainWanted(Exception):
    """The service wants to ask again: its transaction is undone."""

    def __init__(self, why: str, after: float) -> None:
        super().__init__(why)
        self.why = why
        self.after = after


def events_of(returned: Any, call: Call) -> Iterable[Event]:
    """Return the events that `given_up` returned. Raises `TypeError` if it returned something else."""
    if returned is None:
        return ()
    if isinstance(returned, Event):
        return (returned,)
    if not isinstance(returned, Iterable):
        raise TypeError(
            f"{type(call).__name__}.given_up returned {type(returned).__name__}; it returns an event, several, or None"
        )
    return returned


def caused_id(service: str, call_id: str, event_type: str, n: int) -> str:
    """The id of the n-th event of a type that an answer to `call_id` causes: the same each time it is handled."""
    if len(call_id) > ID_MAX:
        call_id = f"{service}:{hashlib.sha256(call_id.encode()).hexdigest()[:32]}"
    return f"{call_id}.{event_type}.{n}"
