"""`positions show`: every position as both systems have it, and what that means."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import OtherCluster, Stop
from ..kafka import batch_header
from ..kafka.held_back import Held
from ..postgres import parked, pauses
from ..postgres.pauses import Pause
from ..protocol.ports import Input
from ..worker import startup
from . import survey
from .group import Group
from .maintenance import Context
from .output import age, as_json, columns, echo
from .survey import InputState, LaneState, Waiting

BATCHES_MAX = 5
"""Inputs whose next batch is examined; each takes some tenths of a second."""


class Status(NamedTuple):
    """All positions of a service, as facts for programs, and the members of its group."""

    topics: list[dict[str, Any]]
    inputs: list[dict[str, Any]]
    lanes: list[dict[str, Any]]
    members: list[str]

    @property
    def good(self) -> bool:
        """Whether there is nothing to decide."""
        return not any(found["detail"] for found in (*self.topics, *self.inputs, *self.lanes))


def show(context: Context, *, json: bool) -> bool:
    """Print all positions; return whether there is nothing to decide. Safe at any time: it changes nothing."""
    found = look(context)
    if json:
        as_json(found._asdict())
    else:
        _print(context.service.name, found)
    return found.good


def look(context: Context) -> Status:
    """Read all positions. Takes some seconds while an input waits, or a transaction is open."""
    service = context.service
    with Group(context.settings, service) as group, context.engine.connect() as connection:
        seen = startup.see_topics(context.settings, service)
        with connection.begin():
            wrong = startup.compare_topics(connection, context.settings, service, seen)
        found = survey.inputs(connection, group, service)
        held = survey.held_back(context, group, found)
        stops = {s.source: _stop(wrong, s.source.topic) or s.disagreement(service.name) for s in found}
        with connection.begin():
            waiting = parked.waiting(connection, [s.source for s in found]) or {}
            paused = pauses.look(connection)
        moving = [s for s in found if stops[s.source] is None and s.source.topic not in paused]
        waits_at = survey.waiting_inputs(connection, moving)
        inputs = [
            {
                **_input(s, stops[s.source], held.get(s.source), waits=s.source in waits_at),
                "parked": waiting[s.source].records if s.source in waiting else 0,
                "parked_keys": waiting[s.source].keys if s.source in waiting else 0,
                **_paused(paused.get(s.source.topic), stops[s.source]),
            }
            for s in found
        ]
        states = survey.lanes(connection, group, service)
        waits = survey.waiting(connection, states)
        lanes = [
            _lane(state, waits[state.lane], _stop(wrong, service.lane_topic) or state.disagreement(service.name))
            for state in states
        ]
        members = group.members()
    standing = [(state.source, row) for state, row in zip(found, inputs, strict=True) if row["waits"]]
    for row in inputs:
        row["waits"] = _why(context, row, members) if row["waits"] else None
    for source, row in standing[:BATCHES_MAX] if members else ():
        row["waits"] += _batch(context, source, row["next_offset"])
    topics = [{"source": name, "state": type(stop).__name__, "detail": str(stop)} for name, stop in wrong.items()]
    return Status(topics, inputs, lanes, members)


def _stop(wrong: Mapping[str, Stop], topic: str) -> Stop | None:
    """The stop that precedes any comparison of positions: they are of another log."""
    stop = wrong.get("cluster") or wrong.get(topic)
    return stop if isinstance(stop, OtherCluster) else None


def _print(service: str, status: Status) -> None:
    """Print the two tables, and each problem in full."""
    topics, inputs, lanes, members = status
    echo(f"members of group {service}: {', '.join(members) or 'none'}")
    echo()
    columns(
        ("INPUT", "NEXT OFFSET", "EPOCH", "COMMITTED", "FIRST", "END", "LAG", "STATE"),
        [
            [i[k] for k in ("source", "next_offset", "epoch", "committed", "first", "end", "lag", "state")]
            for i in inputs
        ],
    )
    echo()
    columns(
        ("LANE", "PUBLISHED", "PUBLISHED CLAIM", "BATCH", "CLAIM", "ROWS", "UNPUBLISHED", "OLDEST", "STATE"),
        [
            [
                n[k]
                for k in (
                    "source",
                    "published",
                    "published_claim",
                    "batch",
                    "claim",
                    "rows",
                    "unpublished",
                    "oldest",
                    "state",
                )
            ]
            for n in ({**lane, "oldest": age(lane["oldest_seconds"])} for lane in lanes)
        ],
    )
    if records := sum(found["parked"] for found in inputs):
        echo()
        echo(
            f"parked records: {records:,}, of {sum(found['parked_keys'] for found in inputs):,} keys; see `parked list`"
        )
    topics_paused = {found["source"].rpartition("[")[0]: found["paused"] for found in inputs if found["paused"]}
    for topic, pause in topics_paused.items():
        echo()
        echo(f"{topic} is {pause}; `inputs resume {topic}` lets it go on")
    # A topic's problem is that of all its partitions: it is printed once.
    for wrong in dict.fromkeys(found["detail"] for found in (*topics, *inputs, *lanes) if found["detail"]):
        echo()
        echo(wrong)
    for reason in (found[what] for what in ("waits", "held_back") for found in inputs if found[what]):
        echo()
        echo(reason)


def _why(context: Context, source: Mapping[str, Any], members: list[str]) -> str:
    """Return why an input waits, as far as it shows from outside a worker's memory."""
    where = f"{source['source']} waits at {source['next_offset']}"
    if not members:
        return f"{where}: no worker is a member of the group"
    aside = context.command(
        f"positions set-aside --target '{source['source']}' --offset {source['next_offset']} --reason ..."
    )
    return (
        f"{where}: nothing was handled in the {survey.STANDING_SECONDS:g} s for which this command looked. A worker "
        "may be busy with it, or its handler raises Retry: `retry_later` in the worker's log says why. To wait for "
        f"that record no longer, {aside} makes a dead letter of it, and loses nothing"
    )


def _batch(context: Context, source: Input, offset: int) -> str:
    """Describe the extent of the batch that an input waits at: perhaps no worker can unpack it."""
    try:
        header = batch_header.read(context.settings, context.service.name, source, offset)
    except Exception:  # noqa: BLE001 - from kafka-python; without it less is shown
        return ""
    if header is None:
        return ""
    skip = context.command(f"positions skip --target '{source}' --to {header.last + 1}")
    return (
        f". The next batch there goes to {header.last} ({header.size} bytes, {header.codec}). Only if no worker can "
        f"read it (`unreadable` in its log), or each runs out of memory on it: {skip} passes over all of it"
    )


def _paused(pause: Pause | None, stop: Stop | None) -> dict[str, Any]:
    """Say that an operator has paused an input; a decision about it comes first."""
    if pause is None:
        return {"paused": None}
    return {"paused": str(pause), **({"state": "paused"} if stop is None else {})}


def _input(state: InputState, stop: Stop | None, held: Held | None, *, waits: bool) -> dict[str, Any]:
    # A log that went back, or another log, has no lag.
    of_this_log = not isinstance(stop, OtherCluster) and not state.beyond_the_end
    comparison = _comparison(state, stop)
    if held and stop is None:
        comparison["state"] = f"held back at {held.offset}"
    elif waits and state.position:
        comparison["state"] = f"waits at {state.position.next_offset}"
    return {
        "source": str(state.source),
        "next_offset": state.position.next_offset if state.position else None,
        "epoch": state.position.epoch if state.position else None,
        "committed": state.committed.offset if state.committed else None,
        "first": state.span.low if state.span else None,
        "end": state.span.high if state.span else None,
        "lag": state.lag if of_this_log else None,
        **comparison,
        "waits": waits,
        "held_back": None if held is None else str(held),
    }


def _lane(state: LaneState, waits: Waiting, stop: Stop | None) -> dict[str, Any]:
    return {
        "source": f"lane-{state.lane}",
        "published": state.published.offset if state.published else None,
        "published_claim": (state.published.metadata or None) if state.published else None,
        "batch": state.claim.position if state.claim else None,
        "claim": (state.claim.claim_id or None) if state.claim else None,
        "rows": state.claim.rows if state.claim else None,
        "unpublished": waits.rows,
        "oldest_seconds": waits.oldest_seconds,
        **_comparison(state, stop),
    }


def _comparison(state: InputState | LaneState, stop: Stop | None) -> dict[str, str | None]:
    words = state.words() if stop is None else type(stop).__name__
    return {"state": words, "detail": None if stop is None else str(stop)}
