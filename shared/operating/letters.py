"""`dead-letters list | show`: what was set aside, readable whatever it holds."""

from json import dumps, loads
from typing import Any

from .. import dead_letters
from ..dead_letters import State, Stored
from ..errors import NotDone
from .output import as_json, columns, printable, say
from .rules import Desk

CELL = 60
"""Characters of an error in a list."""


def show_all(desk: Desk, *, state: State | None, topic: str | None, error: str | None, most: int, json: bool) -> None:
    """List dead letters, the oldest first."""
    with desk.engine.begin() as connection:
        found = dead_letters.select(connection, state=state, topic=topic, error=error, after=0, most=most + 1)
    shown = found[:most]
    if json:
        as_json([_facts(letter) for letter in shown])
        return
    columns(
        ("ID", "FROM", "OFFSET", "EVENT", "EVENT ID", "ERROR", "SET ASIDE", "RE-DRIVEN", "DISMISSED"),
        [
            (
                letter.id,
                letter.record.input,
                letter.record.offset,
                letter.event_type,
                letter.event_id,
                _line(f"{letter.error}: {letter.detail}"),
                f"{letter.set_aside_at:%Y-%m-%d %H:%M:%S}",
                f"{letter.redriven_at:%Y-%m-%d %H:%M:%S}" if letter.redriven_at else None,
                f"by decision {letter.dismissed_by}" if letter.dismissed_at else None,
            )
            for letter in shown
        ],
    )
    if len(found) > most:
        say(f"... the oldest {most}; --limit shows more")


def show(desk: Desk, number: int, *, json: bool) -> None:
    """Show one dead letter with its headers and its value."""
    with desk.engine.begin() as connection:
        letter = dead_letters.find(connection, number)
    if letter is None:
        raise NotDone(f"there is no dead letter {number}")
    facts = {
        **_facts(letter),
        "key": readable(letter.record.key),
        "headers": {name: readable(value) for name, value in letter.record.headers or ()},
        "value": readable(letter.record.value),
    }
    if json:
        as_json(facts)
        return
    for name, fact in facts.items():
        if name == "headers":
            for header, value in fact.items():
                say(f"header       {header} = {_text(value)}")
        elif name == "traceback" and fact is not None:
            for line in fact.splitlines():
                say(f"traceback    {_text(line)}")
        else:
            say(f"{name:12} {_text(fact)}")


def _facts(letter: Stored) -> dict[str, Any]:
    return {
        "id": letter.id,
        "from": str(letter.record.input),
        "offset": letter.record.offset,
        "epoch": letter.epoch,
        "event": letter.event_type,
        "event_id": letter.event_id,
        "error": letter.error,
        "detail": letter.detail,
        "traceback": letter.traceback,
        "traceparent": letter.traceparent,
        "set_aside_at": letter.set_aside_at.isoformat(),
        "redriven_at": letter.redriven_at.isoformat() if letter.redriven_at else None,
        "dismissed_at": letter.dismissed_at.isoformat() if letter.dismissed_at else None,
        "dismissed_by": letter.dismissed_by,
    }


def readable(data: bytes | None) -> Any:
    """Give what `data` is: JSON if it can be read as such, else text, else its bytes in hexadecimal."""
    if data is None:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"hex": data.hex()}
    try:
        found = loads(text)
        dumps(found, indent=2, allow_nan=False)  # what is too deep or no JSON of others stays text
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, dict | list) else text


def _text(value: Any) -> str:
    if value is None:
        return "-"
    # JSON of one line, with what is not ASCII as it is: the output escapes what is not printable.
    return value if isinstance(value, str) else dumps(value, ensure_ascii=False)


def _line(text: str) -> str:
    line = printable(text.splitlines()[0] if text else "")
    return line if len(line) <= CELL else f"{line[: CELL - 1]}…"
