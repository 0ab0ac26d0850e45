"""`dead-letters list | show`: what was set aside, in a readable form even if it is binary."""

from json import dumps, loads
from typing import Any

from ..errors import CommandFailed
from ..postgres import dead_letters
from ..postgres.dead_letters import DeadLetter, State
from .maintenance import Context
from .output import as_json, echo, oldest, printable

CELL = 60
"""Characters of an error in a list."""


def show_all(
    context: Context, *, state: State | None, topic: str | None, error: str | None, most: int, json: bool
) -> None:
    """List dead letters, the oldest first."""
    with context.engine.begin() as connection:
        found = dead_letters.select(connection, state=state, topic=topic, error=error, after=0, most=most + 1)
    oldest(
        found,
        most,
        json=json,
        facts=_facts,
        heads=("ID", "FROM", "OFFSET", "EVENT", "EVENT ID", "ERROR", "SET ASIDE", "RE-DRIVEN", "DISMISSED"),
        cells=lambda dead_letter: (
            dead_letter.id,
            dead_letter.record.input,
            dead_letter.record.offset,
            dead_letter.event_type,
            dead_letter.event_id,
            first_line(f"{dead_letter.error}: {dead_letter.detail}"),
            f"{dead_letter.set_aside_at:%Y-%m-%d %H:%M:%S}",
            f"{dead_letter.redriven_at:%Y-%m-%d %H:%M:%S}" if dead_letter.redriven_at else None,
            f"by decision {dead_letter.dismissed_by}" if dead_letter.dismissed_at else None,
        ),
    )


def show(context: Context, number: int, *, json: bool) -> None:
    """Show one dead letter with its headers and its value."""
    with context.engine.begin() as connection:
        dead_letter = dead_letters.find(connection, number)
    if dead_letter is None:
        raise CommandFailed(f"there is no dead letter {number}")
    facts = {
        **_facts(dead_letter),
        "key": readable(dead_letter.record.key),
        "headers": {name: readable(value) for name, value in dead_letter.record.headers or ()},
        "value": readable(dead_letter.record.value),
    }
    if json:
        as_json(facts)
        return
    for name, fact in facts.items():
        if name == "headers":
            for header, value in fact.items():
                echo(f"header       {header} = {on_one_line(value)}")
        elif name == "traceback" and fact is not None:
            for line in fact.splitlines():
                echo(f"traceback    {on_one_line(line)}")
        else:
            echo(f"{name:12} {on_one_line(fact)}")


def _facts(dead_letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": dead_letter.id,
        "from": str(dead_letter.record.input),
        "offset": dead_letter.record.offset,
        "epoch": dead_letter.epoch,
        "event": dead_letter.event_type,
        "event_id": dead_letter.event_id,
        "error": dead_letter.error,
        "detail": dead_letter.detail,
        "traceback": dead_letter.traceback,
        "traceparent": dead_letter.traceparent,
        "set_aside_at": dead_letter.set_aside_at.isoformat(),
        "redriven_at": dead_letter.redriven_at.isoformat() if dead_letter.redriven_at else None,
        "dismissed_at": dead_letter.dismissed_at.isoformat() if dead_letter.dismissed_at else None,
        "dismissed_by": dead_letter.dismissed_by,
    }


def readable(data: bytes | None) -> Any:
    """Decode `data`: as JSON if possible, else as text, else as its bytes in hexadecimal."""
    if data is None:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"hex": data.hex()}
    try:
        found = loads(text)
        dumps(found, indent=2, allow_nan=False)  # too deep, or not strict JSON: stays text
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, dict | list) else text


def on_one_line(value: Any) -> str:
    """Return a fact on one line; a dash for none."""
    if value is None:
        return "-"
    # JSON on one line, with non-ASCII text as it is: the output escapes what is not printable.
    return value if isinstance(value, str) else dumps(value, ensure_ascii=False)


def first_line(text: str) -> str:
    """Return the first line of an error, cut to fit a list."""
    line = printable(text.splitlines()[0] if text else "")
    return line if len(line) <= CELL else f"{line[: CELL - 1]}…"
