"""What somebody may do on the page: the operators' commands, after a confirmation.

Each runs the function of its command, with the answer "yes", and shows the lines that it prints. It leaves a row in
`exactly_once_decision` with the name of the token. Two who do the same are told apart by the commands themselves: the
second finds that it is done.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoFreeConnection

from ..errors import CommandFailed, ExactlyOnceError
from ..operations import (
    calls,
    dead_letters,
    dismissing,
    editing,
    inputs,
    maintenance,
    output,
    parked_keys,
    redrive,
    schedule,
)
from .estate import Known
from .looks import words

REDRIVEN_MAX = 500
"""Dead letters of one click: some seconds. The rest is for the next one."""
ID_MAX = 2**63
NUMBERS = ("id", "base", "offset", "number", "up_to_id")
"""Fields that are numbers."""

Fields = Mapping[str, str]


@dataclass(frozen=True)
class Act:
    """One thing that may be done."""

    name: str
    scope: str
    title: str
    """What it does to `{what}`."""
    means: str
    """What follows from it."""
    button: str
    run: Callable[[Known, Fields], bool | None]
    fields: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """The fields without which it is refused."""
    reason: bool = True
    """Whether it needs a reason, which is kept."""
    danger: bool = False
    """Whether something will never be done."""
    also: tuple[tuple[str, str], ...] = ()
    """Fields that need another scope, if they say yes."""
    place: str = ""
    """The page that asks first, if it has one of its own."""


class Outcome(NamedTuple):
    """What came of it."""

    good: bool
    lines: list[str]


def act(done: Act, known: Known, fields: Fields, by: str) -> Outcome:
    """Do it in the name of a token; never raises."""
    with output.collected() as lines, maintenance.deciding(by):
        try:
            refuse_incomplete(done, fields)
            good = done.run(known, fields) is not False
        except ExactlyOnceError as error:
            good = False
            lines.append(output.printable(str(error)))
        except DBAPIError as error:
            good = False
            lines.append(output.printable(words(error)))
        except NoFreeConnection:
            good = False
            lines.append(
                f"others are acting on {known.name}, and the database keeps them waiting: try again in a moment"
            )
    return Outcome(good, lines or ["done"])


def refuse_incomplete(done: Act, fields: Fields, *, confirmed: bool = True) -> None:
    """Refuse what lacks something. Raises `CommandFailed`."""
    if missing := [name for name in done.needs if not fields.get(name)]:
        raise CommandFailed(f"this address is incomplete: {', '.join(missing)} is missing")
    for name in done.fields:
        if name in NUMBERS and fields.get(name):
            number(fields, name)
        if name == "key":
            key_of(fields[name])
    if confirmed and done.reason and not fields.get("reason", "").strip():
        raise CommandFailed("the reason is empty: say why; it is kept with the decision")
    if len(fields.get("reason", "")) > output.REASON_MAX:
        raise CommandFailed(f"the reason has more than {output.REASON_MAX:,} characters")
    if nul := [name for name in (*done.fields, "reason") if name != "value" and "\0" in fields.get(name, "")]:
        raise CommandFailed(f"{nul[0]} has a NUL character, which no text in PostgreSQL has: write it without")


def whole(written: str) -> int | None:
    """Return the number that is written there; None if it is none that an id may have."""
    if not (written.isascii() and written.isdecimal() and len(written) < 20):
        return None
    found = int(written)
    return found if found < ID_MAX else None


def number(fields: Fields, name: str = "id") -> int:
    """Return a number of a form or an address. Raises `CommandFailed`."""
    found = whole(fields[name])
    if found is None:
        raise CommandFailed(f"{fields[name][:40]} is not a number of one")
    return found


def chosen(fields: Fields) -> dict[str, str | None]:
    """Return which dead letters are meant."""
    return {"topic": fields.get("topic") or None, "error": fields.get("error") or None}


def _redrive(known: Known, fields: Fields) -> bool:
    return redrive.redrive(known.acting, [number(fields)], every=False, dismissed=fields.get("dismissed") == "yes")


def _redrive_all(known: Known, fields: Fields) -> bool:
    last = number(fields, "up_to_id")
    with known.acting.engine.begin() as connection:
        found = dead_letters.waiting(connection, **chosen(fields), last=last, most=REDRIVEN_MAX + 1)
    numbers = found[:REDRIVEN_MAX]
    if not numbers:
        output.echo("no such dead letter waits")
        return True
    good = redrive.redrive(known.acting, numbers, every=False, dismissed=False)
    if len(found) > len(numbers):
        output.echo(f"... these were the first {REDRIVEN_MAX}; more wait")
    _tell_later(known, fields)
    return good


def _tell_later(known: Known, fields: Fields) -> None:
    """Say what was left out: somebody has confirmed what waited then."""
    with known.acting.engine.begin() as connection:
        later = dismissing.later(connection, number(fields, "up_to_id"), **chosen(fields))
    if later:
        output.echo(f"{later:,} more that match {'has' if later == 1 else 'have'} come since you were asked: left out")


def _edit(known: Known, fields: Fields) -> bool:
    letter, base = number(fields), number(fields, "base")
    value = fields["value"].encode()
    editing.keep(known.acting, letter, value, reason=fields["reason"], force=fields.get("force") == "yes", base=base)
    if fields.get("redrive") == "yes":
        return _redrive(known, {"id": str(letter)})
    output.echo("Redrive it, and its handlers get this value")
    return True


def _dismiss(known: Known, fields: Fields) -> bool:
    return dismissing.dismiss(
        known.acting, [number(fields)], topic=None, error=None, every=False, reason=fields["reason"], yes=True
    )


def _dismiss_all(known: Known, fields: Fields) -> bool:
    which, last = chosen(fields), number(fields, "up_to_id")
    every = not any(which.values())
    good = dismissing.dismiss(known.acting, [], **which, every=every, reason=fields["reason"], yes=True, last=last)
    _tell_later(known, fields)
    return good


def _cancel(known: Known, fields: Fields) -> None:
    schedule.cancel(known.acting, fields["name"], reason=fields["reason"], yes=True, event_id=fields["event_id"])


def _run_now(known: Known, fields: Fields) -> None:
    schedule.run_now(known.acting, fields["name"], reason=fields["reason"], yes=True, event_id=fields["event_id"])


def _retry_call(known: Known, fields: Fields) -> bool:
    return calls.retry_now(known.acting, [number(fields)], every=False)


def _give_up_call(known: Known, fields: Fields) -> None:
    nothing = fields.get("publish_nothing") == "yes"
    calls.give_up(known.acting, number(fields), reason=fields["reason"], publish_nothing=nothing, yes=True)


def _retry_key(known: Known, fields: Fields) -> bool:
    return parked_keys.retry_now(known.acting, fields["target"], key_of(fields["key"]), every=False)


def _give_up_key(known: Known, fields: Fields) -> None:
    parked_keys.give_up(
        known.acting,
        fields["target"],
        key_of(fields["key"]),
        number(fields, "offset"),
        whole=fields.get("whole") == "yes",
        reason=fields["reason"],
        yes=True,
    )


def _pause(known: Known, fields: Fields) -> None:
    inputs.pause(known.acting, fields["topic"], reason=fields["reason"])


def _resume(known: Known, fields: Fields) -> None:
    inputs.resume(known.acting, fields["topic"])


def key_of(written: str) -> str:
    """Return a key as the commands take it. A page spells its bytes in hexadecimal: it may be no text. Raises
    `CommandFailed`.
    """
    try:
        return bytes.fromhex(written).decode(errors="surrogateescape")
    except ValueError:
        raise CommandFailed("the key of this address is not in hexadecimal") from None


ACTS = {
    made.name: made
    for made in (
        Act(
            "redrive",
            "dead-letters:write",
            "Redrive dead letter {id}",
            "Its handlers run again under the ids of the original record, so it takes effect once. If they fail again, "
            "it stays, with its new error.",
            "Redrive",
            _redrive,
            ("id", "dismissed"),
            ("id",),
            reason=False,
        ),
        Act(
            "redrive-all",
            "dead-letters:write",
            "Redrive all {number}",
            f"Up to {REDRIVEN_MAX} at a time, the oldest first. Those that fail again stay, with their new error. "
            "What comes meanwhile is left out.",
            "Redrive them",
            _redrive_all,
            ("topic", "error", "number", "up_to_id"),
            ("number", "up_to_id"),
            reason=False,
        ),
        Act(
            "edit",
            "dead-letter-values:write",
            "Edit dead letter {id}",
            "Its handlers get this value instead, under the same event id and key, so it takes effect once. What came "
            "from Kafka is kept beside it.",
            "Keep the edit",
            _edit,
            ("id", "value", "base", "force", "redrive"),
            ("id", "value", "base"),
            also=(("redrive", "dead-letters:write"),),
            place="/dead-letters/{service}/{id}/edit",
        ),
        Act(
            "dismiss",
            "dead-letters:write",
            "Dismiss dead letter {id}",
            "It will never be handled. It is kept for DEAD_LETTER_RETENTION_HOURS, and until then it can be redriven.",
            "Dismiss",
            _dismiss,
            ("id",),
            ("id",),
            danger=True,
        ),
        Act(
            "dismiss-all",
            "dead-letters:write",
            "Dismiss all {number}",
            "They will never be handled. They are kept for DEAD_LETTER_RETENTION_HOURS. What comes meanwhile is left "
            "out.",
            "Dismiss them",
            _dismiss_all,
            ("topic", "error", "number", "up_to_id"),
            ("number", "up_to_id"),
            danger=True,
        ),
        Act(
            "cancel-event",
            "schedule:write",
            "Cancel {name}",
            "This event is never published.",
            "Cancel the event",
            _cancel,
            ("name", "event_id"),
            ("name", "event_id"),
            danger=True,
        ),
        Act(
            "run-event-now",
            "schedule:write",
            "Publish {name} now",
            "It is due at once; the worker of its lane publishes it.",
            "Publish now",
            _run_now,
            ("name", "event_id"),
            ("name", "event_id"),
        ),
        Act(
            "retry-call",
            "calls:write",
            "Ask now: call {id}",
            "It is asked at once instead of after its pause, under the same idempotency key.",
            "Ask now",
            _retry_call,
            ("id",),
            ("id",),
            reason=False,
        ),
        Act(
            "give-up-call",
            "calls:write",
            "Give up call {id}",
            "It is asked no more, and the service publishes what it publishes without an answer.",
            "Give up",
            _give_up_call,
            ("id", "publish_nothing"),
            ("id",),
            danger=True,
        ),
        Act(
            "retry-key",
            "parked:write",
            "Try this key of {target} now",
            "Its first record is tried within a second, and not when it is due.",
            "Try now",
            _retry_key,
            ("target", "key"),
            ("target", "key"),
            reason=False,
        ),
        Act(
            "give-up-key",
            "parked:write",
            "Give up the record at offset {offset} of {target}",
            "It becomes a dead letter, and the next record of its key is tried.",
            "Give up",
            _give_up_key,
            ("target", "key", "offset", "whole"),
            ("target", "key", "offset"),
            danger=True,
        ),
        Act(
            "pause-input",
            "inputs:write",
            "Pause {topic}",
            "All workers of the service stop handling its records within some seconds, and finish the batch that they "
            "are at. Everything else goes on. What comes waits in Kafka, for as long as the topic keeps it.",
            "Pause",
            _pause,
            ("topic",),
            ("topic",),
            danger=True,
        ),
        Act(
            "resume-input",
            "inputs:write",
            "Resume {topic}",
            "The workers go on with it where they stopped, within some seconds.",
            "Resume",
            _resume,
            ("topic",),
            ("topic",),
            reason=False,
        ),
    )
}
"""By their names in addresses."""

SCOPES = tuple(dict.fromkeys(act.scope for act in ACTS.values()))
