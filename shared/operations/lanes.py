"""`lanes drain | resize`: change the number of lanes; nothing is published twice or out of order.

Waiting rows move to their key's new lane, in the order of their ids, while no lane has an open batch and no row can be
added. So all rows of one key are in one lane before and after, and each lane publishes them in the same order. Rows
that Kafka has are deleted, not moved; rows that were claimed and are provably not published are claimed anew.
"""

import time

from sqlalchemy import Connection, text

from ..errors import CommandFailed
from ..kafka.topics import needed
from ..postgres import claim_log
from ..postgres.outbox import lane_hash
from . import maintenance, survey
from .group import Group, wait_until
from .lane_decisions import at, set_claim
from .maintenance import Context
from .output import age, echo
from .survey import LaneState

PROGRESS_SECONDS = 2.0

PAGE = 5_000

# Inserting a row reads this table first, so the lock bars new inserts and waits for those under way.
_LOCK = text("LOCK TABLE exactly_once_lane IN ACCESS EXCLUSIVE MODE")
_FORGET = text("""
    DELETE FROM exactly_once_outbox AS outbox USING (SELECT lane, unnest(row_ids) AS id
        FROM exactly_once_lane AS lane WHERE lane.lane = :lane) AS claimed
    WHERE outbox.lane = claimed.lane AND outbox.id = claimed.id
""")
_ROWS = text("SELECT id, key FROM exactly_once_outbox")
_MOVE = text("""
    UPDATE exactly_once_outbox AS outbox SET lane = wanted.lane
    FROM unnest(CAST(:ids AS bigint[]), CAST(:lanes AS smallint[])) AS wanted (id, lane)
    WHERE outbox.id = wanted.id AND outbox.lane <> wanted.lane
""")
_MOVE_SCHEDULED = text("""
    UPDATE exactly_once_schedule SET lane = hash % CAST(:lanes AS int) WHERE lane <> hash % CAST(:lanes AS int)
""")
_SHRINK = text("DELETE FROM exactly_once_lane WHERE lane >= :lanes")
_COUNT = text("SELECT count(*) FROM exactly_once_lane")
_TOPIC = text("UPDATE exactly_once_topic SET partitions = :partitions WHERE name = :name AND topic_id = :id")


def drain(context: Context, seconds: float) -> None:
    """Wait until workers have published the whole outbox. Raises `CommandFailed` if it takes longer than `seconds`."""
    shown = 0.0
    left = ""
    with Group(context.settings, context.service) as group, context.engine.connect() as connection:

        def empty() -> bool:
            nonlocal left, shown
            states = survey.lanes(connection, group, context.service)
            stops = [stop for state in states if (stop := state.disagreement(context.service.name)) is not None]
            if stops:
                raise CommandFailed(str(stops[0]))
            waits = {lane: w for lane, w in survey.waiting(connection, states).items() if w.rows}
            left = ", ".join(f"lane-{lane} {w.rows} (oldest {age(w.oldest_seconds)})" for lane, w in waits.items())
            if waits and time.monotonic() > shown + PROGRESS_SECONDS:
                echo(f"waiting to be published: {left}")
                shown = time.monotonic()
            return not waits

        if not wait_until(empty, seconds):
            raise CommandFailed(
                f"after {seconds:.0f} s events still wait: {left}. Are workers up, and do requests keep coming?"
            )
    echo("the outbox is empty: everything is published")


def resize(context: Context, *, yes: bool) -> None:
    """Change the number of lanes to PARTITIONS."""
    wanted = context.settings.partitions
    with maintenance.maintenance(context) as paused:
        topics = paused.group.topics(needed(context.service))
        topic = topics.get(context.service.lane_topic)
        if topic is None:
            raise CommandFailed(
                f"Kafka has no topic {context.service.lane_topic}; create it with {context.command('topics')}"
            )
        if topic.partitions > wanted:
            raise CommandFailed(
                f"PARTITIONS is {wanted}, but topic {context.service.lane_topic} has {topic.partitions} partitions, "
                f"and Kafka cannot remove any. Set PARTITIONS to {topic.partitions}; or delete this topic, which is "
                f"always empty, and then run {context.command('topics')}, "
                f"{context.command(f'positions adopt --target {context.service.lane_topic}')}, "
                f"{context.command('positions adopt --target lanes')} and this command"
            )
        with paused.connection.begin():
            lanes = paused.connection.execute(_COUNT).scalar_one()
        echo(f"lanes: {lanes} -> {wanted}; partitions of {context.service.lane_topic}: {topic.partitions} -> {wanted}")
        maintenance.confirm("change the number of lanes?", yes=yes)
        if topic.partitions < wanted:
            paused.group.grow(context.service.lane_topic, wanted)
        states = survey.lanes(paused.connection, paused.group, context.service)
        for state in states:
            stop = state.disagreement(context.service.name)
            if stop is not None and state.claim is not None:
                raise CommandFailed(f"decide this first: {stop}")
        with paused.connection.begin():
            paused.connection.execute(_LOCK)
            moved = _rearrange(paused.connection, states, wanted)
            after = {name: known.partitions for name, known in paused.group.topics(needed(context.service)).items()}
            for name, partitions in after.items():
                present = {"name": name, "id": topics[name].id if name in topics else "", "partitions": partitions}
                paused.connection.execute(_TOPIC, present)
            maintenance.decided(
                paused.connection,
                "lanes resize",
                "lanes",
                {"lanes": lanes, "partitions": {name: known.partitions for name, known in topics.items()}},
                {"lanes": wanted, "partitions": after, "rows_moved": moved},
            )
        echo(f"done: {wanted} lanes, {moved} waiting rows moved; start the workers again, with PARTITIONS={wanted}")
        _hint(after, wanted)


def _rearrange(connection: Connection, states: list[LaneState], wanted: int) -> int:
    """Take back all claims, and move every waiting row to its key's lane; return how many rows moved."""
    for state in states:
        if state.is_published:
            connection.execute(_FORGET, {"lane": state.lane})
        else:
            claim_log.take_back(connection, [state.lane])
        if state.lane < wanted or state.claim is not None:
            set_claim(connection, state.lane, at(state))
    moved = 0
    for page in connection.execute(_ROWS, execution_options={"yield_per": PAGE}).partitions():
        lanes = [lane_hash(row.key) % wanted for row in page]
        moved += connection.execute(_MOVE, {"ids": [row.id for row in page], "lanes": lanes}).rowcount
    connection.execute(_MOVE_SCHEDULED, {"lanes": wanted})
    connection.execute(_SHRINK, {"lanes": wanted})
    return moved


def _hint(partitions: dict[str, int], wanted: int) -> None:
    other = [name for name, count in partitions.items() if count != wanted]
    if other:
        echo(
            f"{', '.join(sorted(other))}: another number of partitions. That is safe, only slower: a worker then "
            "publishes less of what it has handled in the same cycle"
        )
