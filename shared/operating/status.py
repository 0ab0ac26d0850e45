"""`positions show`: what both systems say of every position, and what that means."""

from collections.abc import Mapping
from typing import Any

from .. import batch_header, start
from ..errors import OtherCluster, Stop
from ..held_back import Held
from ..ports import Input
from . import survey
from .group import Group
from .output import age, as_json, columns, say
from .rules import Desk
from .survey import InputState, LaneState, Waiting

BATCHES_MAX = 5
"""Inputs of which the next batch is looked at; each takes some tenths of a second."""


def show(desk: Desk, *, json: bool) -> bool:
    """Print all positions; give whether there is nothing to decide. It may be done at any time, and changes nothing."""
    service = desk.service
    with Group(desk.settings, service) as group, desk.engine.connect() as connection:
        seen = start.see_topics(desk.settings, service)
        with connection.begin():
            wrong = start.judge_topics(connection, desk.settings, service, seen)
        found = survey.inputs(connection, group, service)
        held = survey.held_back(desk, group, found)
        stops = {s.source: _stop(wrong, s.source.topic) or s.disagreement(service.name) for s in found}
        waits_at = survey.waiting_inputs(connection, [s for s in found if stops[s.source] is None])
        inputs = [_input(s, stops[s.source], held.get(s.source), waits=s.source in waits_at) for s in found]
        states = survey.lanes(connection, group, service)
        waits = survey.waiting(connection, states)
        lanes = [
            _lane(state, waits[state.lane], _stop(wrong, service.lane_topic) or state.disagreement(service.name))
            for state in states
        ]
        members = group.members()
    standing = [(state.source, row) for state, row in zip(found, inputs, strict=True) if row["waits"]]
    for row in inputs:
        row["waits"] = _why(desk, row, members) if row["waits"] else None
    for source, row in standing[:BATCHES_MAX] if members else ():
        row["waits"] += _batch(desk, source, row["H"])
    topics = [{"source": name, "verdict": type(stop).__name__, "detail": str(stop)} for name, stop in wrong.items()]
    if json:
        as_json({"topics": topics, "inputs": inputs, "lanes": lanes, "members": members})
    else:
        _print(service.name, topics, inputs, lanes, members)
    return not any(found["detail"] for found in (*topics, *inputs, *lanes))


def _stop(wrong: Mapping[str, Stop], topic: str) -> Stop | None:
    """What comes before any judgement of positions: they are of another log."""
    stop = wrong.get("cluster") or wrong.get(topic)
    return stop if isinstance(stop, OtherCluster) else None


def _print(
    service: str,
    topics: list[dict[str, Any]],
    inputs: list[dict[str, Any]],
    lanes: list[dict[str, Any]],
    members: list[str],
) -> None:
    """Print the two tables, and in full what is wrong."""
    say(f"members of group {service}: {', '.join(members) or 'none'}")
    say()
    columns(
        ("INPUT", "H", "EPOCH", "COMMITTED", "FIRST", "END", "LAG", "STATE"),
        [[i[k] for k in ("source", "H", "epoch", "committed", "first", "end", "lag", "verdict")] for i in inputs],
    )
    say()
    columns(
        ("LANE", "P", "P IS OF CLAIM", "BATCH", "CLAIM", "ROWS", "UNSAID", "OLDEST", "STATE"),
        [
            [n[k] for k in ("source", "P", "P_claim", "batch", "claim", "rows", "unsaid", "oldest", "verdict")]
            for n in ({**lane, "oldest": age(lane["oldest_seconds"])} for lane in lanes)
        ],
    )
    # What is wrong with a topic is wrong with all its partitions: it is told once.
    for wrong in dict.fromkeys(found["detail"] for found in (*topics, *inputs, *lanes) if found["detail"]):
        say()
        say(wrong)
    for told in (found[what] for what in ("waits", "held_back") for found in inputs if found[what]):
        say()
        say(told)


def _why(desk: Desk, source: Mapping[str, Any], members: list[str]) -> str:
    """Tell why an input waits, as far as it can be seen from here: what a worker has in its memory cannot."""
    where = f"{source['source']} waits at {source['H']}"
    if not members:
        return f"{where}: no worker is a member of the group"
    aside = desk.command(f"positions set-aside --source '{source['source']}' --offset {source['H']} --reason ...")
    return (
        f"{where}: nothing was handled in the {survey.STANDING_SECONDS:.0f} s for which this command looked. A worker "
        "may be busy with it, or its handler raises Retry: `retry_later` in the worker's log says why. If that record "
        f"shall wait no longer, {aside} makes a dead letter of it, and loses nothing"
    )


def _batch(desk: Desk, source: Input, offset: int) -> str:
    """Tell how far the batch goes at which an input stands: it may be one that no worker can unpack."""
    try:
        header = batch_header.read(desk.settings, desk.service.name, source, offset)
    except Exception:  # noqa: BLE001 - of kafka-python; without it less is told
        return ""
    if header is None:
        return ""
    skip = desk.command(f"positions skip --source '{source}' --to {header.last + 1}")
    return (
        f". The next batch there goes to {header.last} ({header.size} bytes, {header.codec}). Only if no worker can "
        f"read it (`unreadable` in its log), or each is killed for its memory: {skip} passes over all that is in it"
    )


def _input(state: InputState, stop: Stop | None, held: Held | None, *, waits: bool) -> dict[str, Any]:
    # Of a log that went back, or of another one, there is no lag.
    of_this_log = not isinstance(stop, OtherCluster) and not state.beyond_the_end
    verdict = _verdict(state, stop)
    if held and stop is None:
        verdict["verdict"] = f"held back at {held.offset}"
    elif waits and state.position:
        verdict["verdict"] = f"waits at {state.position.next_offset}"
    return {
        "source": str(state.source),
        "H": state.position.next_offset if state.position else None,
        "epoch": state.position.epoch if state.position else None,
        "committed": state.committed.offset if state.committed else None,
        "first": state.span.low if state.span else None,
        "end": state.span.high if state.span else None,
        "lag": state.lag if of_this_log else None,
        **verdict,
        "waits": waits,
        "held_back": None if held is None else str(held),
    }


def _lane(state: LaneState, waits: Waiting, stop: Stop | None) -> dict[str, Any]:
    return {
        "source": f"lane-{state.lane}",
        "P": state.said.offset if state.said else None,
        "P_claim": (state.said.metadata or None) if state.said else None,
        "batch": state.claim.position if state.claim else None,
        "claim": (state.claim.claim_id or None) if state.claim else None,
        "rows": state.claim.rows if state.claim else None,
        "unsaid": waits.rows,
        "oldest_seconds": waits.oldest_seconds,
        **_verdict(state, stop),
    }


def _verdict(state: InputState | LaneState, stop: Stop | None) -> dict[str, str | None]:
    words = state.words() if stop is None else type(stop).__name__
    return {"verdict": words, "detail": None if stop is None else str(stop)}
