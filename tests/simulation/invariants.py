"""Invariants that hold after every commit of either system, and those at rest."""

from collections import Counter
from collections.abc import Iterable, Mapping

from shared.protocol.attempts import ENDS
from shared.protocol.ports import Input, OutboxRow
from tests.simulation.broker import Broker
from tests.simulation.client import lane_of
from tests.simulation.faults import Violated
from tests.simulation.postgres import Postgres, name_of


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _of(key: str, rows: Iterable[OutboxRow]) -> list[str]:
    return [row.event_id for row in rows if row.key == key]


def _late(order: Iterable[tuple[Input, bytes, int]]) -> list[str]:
    """Name the records that took effect after a later one of their key."""
    late, last = [], dict[tuple[Input, bytes], int]()
    for source, key, offset in order:
        if last.setdefault((source, key), -1) >= offset:
            late.append(f"{source}@{offset} of {key!r}")
        last[source, key] = offset
    return late


def at_any_time(broker: Broker, server: Postgres) -> None:
    """Raise `Violated` if something happened that can never be undone."""
    published = [row for log in broker.published.values() for row in log.committed()]
    names = {row.event_id for row in published}
    dead_letters = [name_of(dead_letter.record) for dead_letter in server.dead_letters]
    if twice := _twice(server.effects) + _twice(dead_letters):
        raise Violated(f"took effect twice: {twice}")
    if both := server.handled & set(dead_letters):
        raise Violated(f"took effect and was set aside: {sorted(both)}")
    if late := _late(server.order) + server.overtook:
        raise Violated(f"took effect out of order: {late}")
    if few := [place for place in server.ended if server.ends.most[place] < ENDS]:
        raise Violated(f"set aside though fewer processes ended at it: {few}")
    if twice := _twice(row.event_id for row in published):
        raise Violated(f"published twice: {twice}")
    if lost := server.deleted - names:
        raise Violated(f"deleted and not published: {sorted(lost)}")
    if phantoms := names - {row.event_id for row in server.decided}:
        raise Violated(f"published and not decided: {sorted(phantoms)}")
    for key in {row.key for row in published}:
        published, decided = _of(key, broker.published[lane_of(key)].committed()), _of(key, server.decided)
        if published != decided[: len(published)]:
            raise Violated(f"published out of order: {key}: published {published}, decided {decided}")
    for lane, claim in server.claims.items():
        position = broker.offsets[lane].offset if lane in broker.offsets else 0
        if not position <= claim.position <= position + 1:
            raise Violated(
                f"published position and claim drift apart: lane {lane}: the published position is {position}, the "
                f"claim is {claim}"
            )
        claimed = {server.outbox[row_id].event_id for row_id in claim.ids}
        if claim.position > position and claimed & names:
            raise Violated(f"seen, and no published position knows: lane {lane}: {sorted(claimed & names)}")


def at_rest(broker: Broker, server: Postgres, effects: Mapping[str, int]) -> None:
    """Raise `Violated` if something is missing."""
    if Counter(server.effects) != effects:
        raise Violated(f"effects differ: {server.effects}, expected {sorted(effects)}")
    published = sorted(row.event_id for log in broker.published.values() for row in log.committed())
    if published != (decided := sorted(row.event_id for row in server.decided)):
        raise Violated(f"not published: {sorted(set(decided) - set(published))}")
    ids = {(dead_letter.record.headers or [("", None)])[0][1] or b"" for dead_letter in server.dead_letters}
    if deaf := [event_id for _, event_id in server.inbox if event_id.encode() in ids and event_id not in effects]:
        raise Violated(f"set aside, and a redrive would take it for a duplicate: {deaf}")
    if server.parked:
        raise Violated(f"records stay parked: {sorted(server.parked)}")
    if server.outbox:
        raise Violated(f"rows stay in the outbox: {server.outbox}")
    for source, log in broker.inputs.items():
        malformed = {
            f"{source}@{offset}" for offset, entry in enumerate(log.entries) if entry.value and entry.value[0][0] == "?"
        }
        if missing := malformed - {name_of(dead_letter.record) for dead_letter in server.dead_letters}:
            raise Violated(f"not set aside: {missing}")
        if server.positions[source] != log.stable_end():
            raise Violated(
                f"the next offset is not at the end: {source}: the next offset is {server.positions[source]}, the "
                f"end is {log.stable_end()}"
            )
