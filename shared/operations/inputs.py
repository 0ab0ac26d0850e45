"""`inputs list | pause | resume`: an operator pauses a topic that the service consumes, and lets it go on.

All of it is safe while workers run. A pause is a row, which each worker reads every few seconds, and whenever it takes
over a share: so it holds for workers that start later, and for partitions that move. Two operators who pause the same
topic at the same time insert the same row, so one of them is told that it is paused.
"""

from typing import Any

from sqlalchemy import Connection

from ..errors import CommandFailed
from ..postgres import pauses
from ..postgres.pauses import Pause
from ..service import Service
from . import maintenance
from .maintenance import Context
from .output import as_json, columns, echo

SEEN_SECONDS = 5
"""A worker looks every three seconds, and takes a moment to act on it."""


def listed(connection: Connection, service: Service) -> list[tuple[str, Pause | None]]:
    """Return the topics that a service consumes, with their pauses, and those that are paused and it does not."""
    found = pauses.look(connection)
    return [(topic, found.get(topic)) for topic in sorted({*service.consumed_topics, *found})]


def show_all(context: Context, *, json: bool) -> None:
    """List the topics that the service consumes, and which of them are paused."""
    with context.engine.begin() as connection:
        found = listed(connection, context.service)
    if json:
        as_json([_facts(context, topic, pause) for topic, pause in found])
        return
    columns(("TOPIC", "STATE", "SINCE", "BY", "REASON"), [_cells(context, topic, pause) for topic, pause in found])


def _facts(context: Context, topic: str, pause: Pause | None) -> dict[str, Any]:
    return {
        "topic": topic,
        "consumed": topic in context.service.consumed_topics,
        "paused": pause is not None,
        "since": pause and pause.at.isoformat(timespec="seconds"),
        "by": pause and pause.by,
        "reason": pause and pause.reason,
        "decision": pause and pause.decision,
    }


def _cells(context: Context, topic: str, pause: Pause | None) -> tuple[object, ...]:
    if pause is None:
        return topic, "consumed", None, None, None
    state = "paused" if topic in context.service.consumed_topics else "paused; not consumed any more"
    return topic, state, f"{pause.at:%Y-%m-%d %H:%M:%S}", pause.by, pause.reason


def pause(context: Context, topic: str, *, reason: str) -> None:
    """Pause a topic, in the name of who decides. Raises `CommandFailed` if that cannot be."""
    name = context.service.name
    if topic not in context.service.consumed_topics:
        raise CommandFailed(f"{topic} is not an input of {name}, which consumes {_consumed(context)}")
    if not reason.strip():
        raise CommandFailed("--reason is empty: say why, for those who find it paused")
    with context.engine.begin() as connection:
        decision = maintenance.decided(connection, "inputs pause", topic, {"paused": False}, {"reason": reason})
        if not pauses.pause(connection, topic, maintenance.decides(), reason, decision):
            known = pauses.look(connection).get(topic)
            told = f"is {known}" if known else "was paused by somebody else, and resumed, just now"
            raise CommandFailed(f"{topic} {told}. Nothing was changed")  # nor is the decision kept
    echo(
        f"{topic} is paused by decision {decision}. Within {SEEN_SECONDS} s all workers of {name} stop handling its "
        "records, and finish the batch that they are at. Everything else goes on. What comes waits in Kafka, for as "
        f"long as the topic keeps it; {context.command(f'inputs resume {topic}')} goes on where it stops"
    )


def resume(context: Context, topic: str, *, reason: str | None = None) -> None:
    """Let a paused topic go on. Raises `CommandFailed` if it is not paused."""
    name = context.service.name
    with context.engine.begin() as connection:
        ended = pauses.resume(connection, topic)
        if ended is None:
            raise CommandFailed(f"{topic} is not paused: {_standing(context, topic)}. Nothing was changed")
        before = {"paused_by": ended.by, "reason": ended.reason, "paused_at": ended.at.isoformat()}
        after = {"paused": False} | ({"reason": reason} if reason else {})
        decision = maintenance.decided(connection, "inputs resume", topic, before, after)
    if topic in context.service.consumed_topics:
        then = f"within {SEEN_SECONDS} s the workers of {name} go on with it where they stopped"
    else:
        then = f"{name} does not consume it any more"
    echo(f"{topic} is resumed by decision {decision}; {then}")


def _standing(context: Context, topic: str) -> str:
    if topic in context.service.consumed_topics:
        return "it was never paused, or somebody else has resumed it"
    return f"it is not an input of {context.service.name}, which consumes {_consumed(context)}"


def _consumed(context: Context) -> str:
    return ", ".join(sorted(context.service.consumed_topics)) or "nothing"
