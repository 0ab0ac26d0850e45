"""What is wrong with a service, worst first: what the commands know, with the cause, what it means, and what mends it.

Nothing is judged here a second time: stops come from `positions show` in its own words, with the commands in them.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode

from ..errors import Malformed
from ..operations.output import age, printable
from ..operations.status import Status
from . import audits, flow
from .estate import Absent, Known
from .flow import Flow
from .looks import Look
from .sight import KEYS_MAX, PROBLEMS_SECONDS, Sight, Waits

Level = Literal["stopped", "waits", "later"]
ORDER: tuple[Level, ...] = ("stopped", "waits", "later")
WORDS: dict[Level, str] = {
    "stopped": "Nothing flows",
    "waits": "Something waits for you",
    "later": "It goes on by itself",
}
KNOWN_SECONDS = 4 * PROBLEMS_SECONDS
"""What was wrong this long ago may not be any more."""
LATE_SECONDS = 10.0
"""An event whose moment passed this long ago waits for something."""
OLD_CALL_SECONDS = 300.0
"""A call that is asked for so long: its destination is down, or refuses."""
SHOWN_MAX = 100
"""Problems of one service. More are of one cause."""

MEANS = {
    "DatabaseWentBack": "The database is older than Kafka. Workers have stopped, so that nothing is done twice.",
    "KafkaWentBack": "Kafka lost what the database knows of. Workers have stopped, so that nothing is lost unseen.",
    "PositionMissing": "One of the two positions is gone. Workers have stopped: a guess would lose or repeat.",
    "RecordsLost": "Records are gone that were not handled. Only you can decide to go on without them.",
    "OtherCluster": "The positions belong to another cluster or topic. Workers have stopped before they mix the two.",
    "LanesDiffer": "Keys would change their lane, and with it their order. Workers have stopped before that.",
}
"""What a stop means, by its name (`shared.errors`)."""
REFUSED = (
    "The server is up and does not let the console in: see to the database, the role or the number of its connections. "
    "Workers and the API are refused too if they connect in the same way; they go on once that is mended."
)
PASSING = ("starting up", "shutting down", "recovery", "not yet accepting", "terminating connection")
"""What PostgreSQL calls fatal while it is restarted."""
_COMMAND = re.compile(r"`(python -m [^`]+)`")


@dataclass(frozen=True)
class Problem:
    """Something that is wrong."""

    level: Level
    service: str
    title: str
    cause: str
    means: str
    commands: tuple[str, ...] = ()
    """What mends it, as messages name it."""
    link: str = ""
    """The page that mends it."""

    @property
    def typed(self) -> list[str]:
        """The commands, ready to copy."""
        return [command.strip("`") for command in self.commands]


def of_absent(one: Absent) -> Problem:
    """Say why a service is not shown."""
    return Problem(
        "stopped",
        one.name,
        "The console cannot show this service",
        printable(one.why),
        "Its processes may be well: only the console, with its own environment, cannot load it.",
    )


def of(sight: Sight, seen: Flow) -> list[Problem]:
    """Return what is wrong with a service, worst first."""
    status, waits = sight.status.known(KNOWN_SECONDS), sight.waits.known(KNOWN_SECONDS)
    found = [*_servers(sight), *_flow(sight.known, seen, status)]
    if status is not None:
        found += _positions(sight.known, status)
    if waits is not None:
        found += _waits(sight.known, waits)
    return in_order(found)[:SHOWN_MAX]


def of_audit(known: Known, seen: audits.Seen) -> list[Problem]:
    """Return what an audit has found that nothing else here would show."""
    report = seen.report
    if report is None:
        return []
    return [
        Problem(
            "waits",
            known.name,
            f"The audit has found {words}: {count:,}",
            f"As of {report.at:%Y-%m-%d %H:%M:%S} UTC; the first: {printable(examples[0])}" if examples else "",
            audits.MEANS[kind],
            (known.reading.command("audit"),),
            "problems#audit",
        )
        for kind, (words, count, examples) in zip(
            (kind for kind in audits.WORST if report.counts[kind]), seen.findings, strict=True
        )
        if kind in audits.MEANS
    ]


def in_order(found: Iterable[Problem]) -> list[Problem]:
    """Put the worst first."""
    return sorted(found, key=lambda problem: ORDER.index(problem.level))


def is_known(sight: Sight) -> bool:
    """Whether the looks that find problems have come to an end lately."""
    return sight.status.known(KNOWN_SECONDS) is not None and sight.waits.known(KNOWN_SECONDS) is not None


def _servers(sight: Sight) -> Iterator[Problem]:
    name = sight.known.name
    servers: tuple[tuple[Look[Any], str, str], ...] = (
        (
            sight.tables,
            "PostgreSQL",
            "Workers wait, then end, to be restarted, and the API answers 503. Nothing is lost; all go on with the "
            "server.",
        ),
        (
            sight.topics,
            "Kafka",
            "Workers wait. The API still takes requests, and what they publish waits in the outbox.",
        ),
    )
    for look, server, means in servers:
        if look.failure or look.silent_seconds > flow.SILENT_SECONDS:
            if _refused(look.failure):
                yield Problem("stopped", name, f"{server} refuses the connection", printable(look.failure), REFUSED)
                return
            cause = look.failure or f"no answer for more than {flow.SILENT_SECONDS:.0f} s"
            yield Problem("stopped", name, f"{server} does not answer", printable(cause), means)
            return  # what follows from it is no problem of its own
    rest: tuple[tuple[Look[Any], str], ...] = (
        (sight.status, "positions"),
        (sight.waits, "dead letters and what else waits"),
    )
    for look, what in rest:
        if look.failure:
            old = f"What is told of it is up to {KNOWN_SECONDS:.0f} s old."
            means = old if look.known(KNOWN_SECONDS) is not None else "What is wrong there is not known."
            yield Problem(
                "waits",
                name,
                f"The {what} cannot be read",
                printable(look.failure),
                f"{means} The console asks again by itself.",
            )


def _refused(failure: str) -> bool:
    """Whether a server has answered, and lets nobody in until somebody mends that."""
    return "FATAL:" in failure and not any(words in failure for words in PASSING)


def _flow(known: Known, seen: Flow, status: Status | None) -> Iterator[Problem]:
    if seen.words == "no worker":
        waits = [
            *([f"{seen.lag:,} records to handle"] if seen.lag else []),
            *([f"up to {seen.rows_at_most:,} events to publish"] if seen.rows_at_most else []),
        ]
        yield Problem(
            "stopped",
            known.name,
            "No worker is up",
            f"Nobody holds a slot of {known.name}. To do: {' and '.join(waits) or 'nothing at the moment'}.",
            "Requests are still accepted. Start workers: they go on where the last ones ended.",
            (known.reading.command("worker"),),
        )
    elif (seen.oldest_seconds or 0.0) > flow.WAITING_SECONDS and seen.state != "bad":
        yield Problem(
            "waits",
            known.name,
            "Events wait to be published",
            f"The oldest was decided {_about(seen.oldest_seconds)} ago; up to {seen.rows_at_most or 0:,} wait.",
            "Workers are busy, cannot reach Kafka, or Kafka refuses a row: the log of the lane's owner says it.",
            (known.reading.command("outbox show"),),
        )
    for found in seen.consumed:
        if found.pause is not None:
            yield Problem(
                "waits",
                known.name,
                f"{printable(found.topic)} is paused",
                f"It was {printable(str(found.pause))}.",
                "Its records wait in Kafka, for as long as the topic keeps them. Everything else goes on.",
                (known.reading.command(f"inputs resume {shlex.quote(found.topic)}"),),
                _link("waiting", service=known.name),
            )
    strangers = [worker.words for worker in seen.workers if worker.slot == "none"]
    if strangers:
        yield Problem(
            "waits",
            known.name,
            "Something else is a member of the group",
            printable("; ".join(strangers)),
            "It gets partitions and handles nothing of them. Stop it; no worker uses such a name.",
        )
    if status is not None and not status.members and seen.state == "ok":
        yield Problem(
            "waits",
            known.name,
            "Workers are up and not in the group",
            f"Slots of {known.name} are held, and Kafka's group {known.name} has no member.",
            "They have stopped for a reason that they log, or Kafka does not let them in.",
            (known.reading.command("positions show"),),
        )


def _positions(known: Known, status: Status) -> Iterator[Problem]:
    seen = set()
    for found in (*status.topics, *status.inputs, *status.lanes):
        if found["detail"] and found["detail"] not in seen:
            seen.add(found["detail"])
            yield Problem(
                "stopped",
                known.name,
                f"{found['source']}: a decision is needed ({found['state']})",
                _plain(found["detail"]),
                MEANS.get(found["state"], "Workers have stopped until somebody decides."),
                _commands(found["detail"]),
            )
    for found in status.inputs:
        if found["held_back"]:
            yield Problem(
                "waits",
                known.name,
                f"{found['source']} is held back",
                _plain(found["held_back"]),
                "A transaction is open in the topic, and nobody who reads committed records gets past it.",
                _commands(found["held_back"]),
            )
        elif found["waits"] and status.members:
            yield Problem(
                "waits",
                known.name,
                f"{found['source']} does not move",
                _plain(found["waits"]),
                "The records behind it wait as well. A worker that is only slow gets past it by itself.",
                _commands(found["waits"]),
            )


def _waits(known: Known, waits: Waits) -> Iterator[Problem]:
    name = known.name
    # The command knows no cause: beside others, the page redrives those of one.
    every = (known.reading.command("dead-letters redrive --all"),) if len(waits.dead_letters) == 1 else ()
    for group in waits.dead_letters:
        topic, error = printable(group.topic), printable(group.error)
        unreadable = group.error == Malformed.__name__
        yield Problem(
            "waits",
            name,
            f"{_some(group.number, 'dead letter')} from {topic}: {error}",
            f"The oldest was set aside {_about(group.oldest_seconds)} ago.",
            "These records took no effect. "
            + ("No handler can read them as they are: edit" if unreadable else "Correct the cause and redrive")
            + " them, or dismiss them with a reason.",
            (
                known.reading.command(f"dead-letters list --topic {shlex.quote(topic)} --error {shlex.quote(error)}"),
                *(() if unreadable else every),
            ),
            _link("dead-letters", service=name, topic=group.topic, error=group.error),
        )
    held = [key for key in waits.keys if key.dead_letter is not None]
    retried = [key for key in waits.keys if key.dead_letter is None]
    if held:
        yield Problem(
            "waits",
            name,
            f"{_many(held, 'key')} wait{'s' if len(held) == 1 else ''} behind a dead letter",
            f"The oldest has waited for {_about(max(key.oldest_seconds for key in held))}.",
            "Later records of these keys are not handled until you have redriven or dismissed the dead letter.",
            (
                known.reading.command("parked list"),
                known.reading.command(f"dead-letters redrive {held[0].dead_letter}"),
            ),
            _link("waiting", service=name),
        )
    if retried:
        first = max(retried, key=lambda key: key.oldest_seconds)
        yield Problem(
            "later",
            name,
            f"{_many(retried, 'key')} wait{'s' if len(retried) == 1 else ''} to be tried again",
            f"The oldest has waited for {_about(first.oldest_seconds)}, tried {first.attempts} times; "
            f"{printable(first.error or 'no error yet')}: {printable(first.detail or '')[:300]}",
            "Their handlers raise Retry. All other keys go on; these do when what they need is back.",
            (known.reading.command("parked list"), known.reading.command("parked retry-now --all")),
            _link("waiting", service=name),
        )
    for destination in waits.calls:
        if destination.stuck:
            yield Problem(
                "waits",
                name,
                f"{_some(destination.stuck, 'call')} to {destination.destination}: the service's own code fails",
                str(waits.stuck_calls[0]["failure"]) if waits.stuck_calls else "",
                "There is an answer, and `answered` fails at it. Correct it: the call is asked again.",
                (known.reading.command("calls list --stuck"),),
                _link("waiting", service=name),
            )
        elif destination.oldest_seconds > OLD_CALL_SECONDS:
            yield Problem(
                "later",
                name,
                f"{_some(destination.calls, 'call')} to {destination.destination} not finished",
                f"The oldest was made {_about(destination.oldest_seconds)} ago.",
                "It is asked until it answers, or its time is over: then the service publishes what it does instead.",
                (known.reading.command(f"calls list --destination {shlex.quote(destination.destination)}"),),
                _link("waiting", service=name),
            )
    late = [found for found in waits.schedule if float(str(found["seconds"])) < -LATE_SECONDS]
    if late:
        yield Problem(
            "waits",
            name,
            f"{_many(late, 'scheduled event')} late",
            f"The first was due {_about(-float(str(late[0]['seconds'])))} ago: {printable(str(late[0]['name']))}.",
            "The worker of its lane publishes it: none is up, or it cannot.",
            (known.reading.command("schedule list"),),
            _link("waiting", service=name),
        )


def _commands(detail: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_COMMAND.findall(detail)))


def _plain(detail: str) -> str:
    return printable(detail).replace("`", "")


def _about(seconds: float | None) -> str:
    """Say how long, in a unit that does not change with each look."""
    if seconds is None:
        return "an unknown time"
    return "less than a minute" if seconds < 60 else age(seconds // 60 * 60) or ""


def _some(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _many(found: list[Any], what: str) -> str:
    return f"More than {KEYS_MAX} {what}s" if len(found) > KEYS_MAX else _some(len(found), what)


def _link(page: str, **asked: str) -> str:
    return f"{page}?{urlencode(asked)}"


def counts(found: Iterable[Problem]) -> Mapping[Level, int]:
    """Count the problems of each level."""
    levels = [problem.level for problem in found]
    return {level: levels.count(level) for level in ORDER}
