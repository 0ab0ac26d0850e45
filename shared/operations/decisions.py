"""`positions adopt | rewind | skip`: an operator decides where Kafka and PostgreSQL disagree.

The three words mean the same everywhere. `adopt` trusts what Kafka shows. `rewind` prefers publishing or handling twice
to not at all. `skip` prefers not at all to twice. docs/operating.md has the whole table.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from ..errors import CommandFailed
from ..protocol.ports import Input
from . import input_decisions, lane_decisions, maintenance, moments, survey
from .maintenance import Choice, Context, Maintenance, Plan
from .moments import Place
from .output import echo
from .survey import InputState

_CLUSTER = text("SELECT cluster_id FROM exactly_once_cluster")
_SET_CLUSTER = text("UPDATE exactly_once_cluster SET cluster_id = :id")
_TOPICS = text("SELECT name, topic_id, partitions FROM exactly_once_topic")
_SET_TOPIC = text("UPDATE exactly_once_topic SET topic_id = :id, partitions = :partitions WHERE name = :name")


def decide(context: Context, choice: Choice, sources: Sequence[str], to: Place | None, *, yes: bool) -> None:
    """Plan `choice` for `sources`, ask, and carry it out. Raises `CommandFailed`."""
    with maintenance.maintenance(context) as paused:
        plans = []
        for source in sources:
            found = _plans(paused, choice, source, to)
            if not found and to is None:
                echo(f"{source}: Kafka and the database agree; there is nothing to decide")
            plans += found
        for plan in plans:
            echo(f"{plan.source}: {_facts(plan.before)} -> {_facts(plan.after)}")
            echo(f"  {plan.means}")
        if not plans:
            return
        maintenance.confirm(f"{choice} {', '.join(plan.source for plan in plans)}?", yes=yes)
        for plan in plans:
            after = {**plan.after, **plan.remembers}
            with paused.connection.begin():
                plan.carry_out(paused.connection)
                maintenance.decided(paused.connection, f"positions {choice}", plan.source, plan.before, after)
            plan.finish()
        echo("done; stopped workers go on by themselves within half a minute; start those again that you have ended")


def _facts(facts: dict[str, Any]) -> str:
    return ", ".join(
        f"{maintenance.SHOWN.get(name, name)} {'none' if fact is None else fact}" for name, fact in facts.items()
    )


def _plans(paused: Maintenance, choice: Choice, source: str, to: Place | None) -> list[Plan]:
    lane, partition = re.fullmatch(r"lane-([0-9]{1,10})", source), re.fullmatch(r"(.+)\[([0-9]{1,10})\]", source)
    if to is not None and not ((partition or source == "inputs") and choice != "adopt"):
        raise CommandFailed(
            f"--to is for rewind and skip of an input, --target '<topic>[<partition>]' or inputs, not for {choice} of "
            f"{source}"
        )
    if isinstance(to, int) and not partition:
        raise CommandFailed(f"--to {to}: each input has offsets of its own; name one input, or a time for all of them")
    if source == "cluster":
        return _cluster(paused, choice)
    if lane or source == "lanes":
        refuse_other(paused, paused.context.service.lane_topic)
        states = survey.lanes(paused.connection, paused.group, paused.context.service)
        wanted = [state for state in states if lane is None or state.lane == int(lane[1])]
        if not wanted:
            raise CommandFailed(f"{source}: there is no such lane")
        plans = [lane_decisions.plan(paused, choice, state) for state in wanted]
        return [plan for plan in plans if plan is not None]
    if partition or source == "inputs":
        topics = [partition[1]] if partition else list(paused.context.service.consumed_topics)
        for topic in topics:
            refuse_other(paused, topic)
        inputs = survey.inputs(paused.connection, paused.group, paused.context.service)
        chosen = [i for i in inputs if partition is None or i.source == Input(partition[1], int(partition[2]))]
        if not chosen:
            raise CommandFailed(
                f"{source} is not an input of {paused.service}, which consumes "
                f"{', '.join(paused.context.service.consumed_topics)}"
            )
        if isinstance(to, datetime):
            return list(_at_time(paused, choice, chosen, to))
        found = [input_decisions.plan(paused, choice, state, to) for state in chosen]
        return [plan for plan in found if plan is not None]
    return _topic(paused, choice, source)


def _at_time(paused: Maintenance, choice: Choice, states: Iterable[InputState], time: datetime) -> Iterable[Plan]:
    """Plan a decision about inputs to go to the offset that `time` has in each. `rewind` never goes forward, and `skip`
    never back.
    """
    spans = {state.source: state.span for state in states if state.span is not None}
    offsets = moments.offsets(paused.group, spans, time)
    for state in states:
        # What does not exist is refused there.
        to, old = offsets.get(state.source, 0), None if state.position is None else state.position.next_offset
        if old is not None and (to >= old if choice == "rewind" else to <= old):
            where = "where it stands" if to == old else f"{'after' if to > old else 'before'} the next offset, {old}"
            echo(f"{state.source}: {moments.words(time)} is offset {to}, {where}: nothing to {choice}")
        elif (plan := input_decisions.plan(paused, choice, state, to)) is not None:
            means = f"{moments.words(time)} is offset {to}. {plan.means}"
            yield replace(plan, means=means, remembers={**plan.remembers, "time": moments.words(time)})


def refuse_other(paused: Maintenance, topic: str) -> None:
    """Refuse to compare positions with another cluster or topic than theirs."""
    present, cluster_id = paused.group.topics([topic]).get(topic), paused.group.cluster_id()
    with paused.connection.begin():
        known_cluster = paused.connection.execute(_CLUSTER).scalar_one_or_none()
        known = {name: topic_id for name, topic_id, _ in paused.connection.execute(_TOPICS)}.get(topic)
    if known_cluster not in (None, cluster_id):
        raise CommandFailed(
            f"the positions belong to cluster {known_cluster}, and this is {cluster_id}: decide that first, with "
            f"{paused.context.command('positions adopt --target cluster')}"
        )
    if present is not None and known not in (None, present.id):
        raise CommandFailed(
            f"topic {topic} was deleted and created again: decide that first, with "
            f"{paused.context.command(f'positions adopt --target {topic}')}"
        )


def _only_adopt(choice: Choice, what: str) -> None:
    if choice != "adopt":
        raise CommandFailed(f"{what} can only be adopted: neither {choice} nor anything else brings back the old one")


def _cluster(paused: Maintenance, choice: Choice) -> list[Plan]:
    _only_adopt(choice, "a cluster")
    new = paused.group.cluster_id()
    with paused.connection.begin():
        old = paused.connection.execute(_CLUSTER).scalar_one_or_none()
    if old in (None, new):
        return []

    def carry_out(connection: Connection) -> None:
        connection.execute(_SET_CLUSTER, {"id": new})

    means = (
        "The topics of the new cluster have other ids, so the next start stops for each of them: adopt it by its name, "
        "which sets the next offsets to its beginning. The new cluster has no published positions, so each lane must "
        "be decided too"
    )
    return [Plan("cluster", {"cluster_id": old}, {"cluster_id": new}, means, carry_out)]


def _topic(paused: Maintenance, choice: Choice, name: str) -> list[Plan]:
    _only_adopt(choice, "a topic")
    topic = paused.group.topics([name]).get(name)
    with paused.connection.begin():
        known = {row.name: (row.topic_id, row.partitions) for row in paused.connection.execute(_TOPICS)}
    if name not in known:
        raise CommandFailed(
            f"{name} is not a target: name an input, a lane, cluster, or one of {', '.join(sorted(known))}"
        )
    if topic is None:
        raise CommandFailed(f"Kafka has no topic {name}; create it with {paused.context.command('topics')}")
    if topic.id == known[name][0]:
        return []
    moves = input_decisions.begin_again(paused, name)

    def carry_out(connection: Connection) -> None:
        connection.execute(_SET_TOPIC, {"id": topic.id, "partitions": topic.partitions, "name": name})
        input_decisions.begin_at(connection, moves)

    means = (
        "Its positions start over under a new epoch, so that new events get new ids" if moves else "It is not consumed"
    )
    if name == paused.context.service.lane_topic:
        means = "The published positions went with the old topic, so each lane must be decided too"
    return [
        Plan(
            name,
            {"topic_id": known[name][0], "partitions": known[name][1]},
            {
                "topic_id": topic.id,
                "partitions": topic.partitions,
                **{str(source): offset for source, offset in moves.items()},
            },
            means,
            carry_out,
            lambda: input_decisions.lower(paused, moves),
        )
    ]
