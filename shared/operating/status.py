"""`positions show`: what both systems say of every position, and what that means."""

from typing import Any

from shared.operating import survey
from shared.operating.group import Group
from shared.operating.output import age, as_json, columns, say
from shared.operating.rules import Desk
from shared.operating.survey import InputState, LaneState, Waiting


def show(desk: Desk, *, json: bool) -> None:
    """Print all positions. It may be done at any time, and changes nothing."""
    service = desk.service
    with Group(desk.settings, service) as group, desk.engine.connect() as connection:
        inputs = [_input(state, service.name) for state in survey.inputs(connection, group, service)]
        states = survey.lanes(connection, group, service)
        waits = survey.waiting(connection, states)
        lanes = [_lane(state, waits[state.lane], service.name) for state in states]
        members = group.members()
    if json:
        as_json({"inputs": inputs, "lanes": lanes, "members": members})
        return
    _print(service.name, inputs, lanes, members)


def _print(service: str, inputs: list[dict[str, Any]], lanes: list[dict[str, Any]], members: list[str]) -> None:
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
    for wrong in (found["detail"] for found in (*inputs, *lanes) if found["detail"]):
        say(f"\n{wrong}")


def _input(state: InputState, service: str) -> dict[str, Any]:
    return {
        "source": str(state.source),
        "H": state.position.next_offset if state.position else None,
        "epoch": state.position.epoch if state.position else None,
        "committed": state.committed.offset if state.committed else None,
        "first": state.span.low if state.span else None,
        "end": state.span.stable if state.span else None,
        "lag": state.lag,
        **_verdict(state, service),
    }


def _lane(state: LaneState, waits: Waiting, service: str) -> dict[str, Any]:
    return {
        "source": f"lane-{state.lane}",
        "P": state.said.offset if state.said else None,
        "P_claim": (state.said.metadata or None) if state.said else None,
        "batch": state.claim.position if state.claim else None,
        "claim": (state.claim.claim_id or None) if state.claim else None,
        "rows": state.claim.rows if state.claim else None,
        "unsaid": waits.rows,
        "oldest_seconds": waits.oldest_seconds,
        **_verdict(state, service),
    }


def _verdict(state: InputState | LaneState, service: str) -> dict[str, str | None]:
    stop = state.disagreement(service)
    words = state.words() if stop is None else type(stop).__name__
    return {"verdict": words, "detail": None if stop is None else str(stop)}
