"""The order in which a flush writes: by the tables' foreign keys, even if models have no relationships.

By itself the ORM knows a foreign key only through a `relationship`; without one it writes class by class, in the order
of their names. Here each flush follows the tables' keys: a row is written after the rows that it refers to, and drops
its references or is deleted before they are deleted.

Tables that refer to themselves or, in a circle, to each other are ordered row by row. Rows that form a circle have no
order; one of their foreign keys must be DEFERRABLE INITIALLY DEFERRED, which is left to PostgreSQL.
"""

# mypy: allow-untyped-calls

import re
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

from sqlalchemy.exc import NoReferenceError
from sqlalchemy.orm import Mapper
from sqlalchemy.orm import Session as OrmSession

# There is no public way to add to the order of a flush. `test_flushing.py` shows that this one works.
from sqlalchemy.orm.unitofwork import UOWTransaction, _DeleteAll, _DeleteState, _SaveUpdateAll, _SaveUpdateState
from sqlalchemy.schema import ForeignKeyConstraint

from ..telemetry.failures import of_class


class Reference(NamedTuple):
    """A foreign key between the rows of two hierarchies of classes, which may be one and the same."""

    child: Mapper[Any]
    parent: Mapper[Any]
    columns: tuple[str, ...]
    """Attributes of the child."""
    refers_to: tuple[str, ...]
    """Attributes of the parent."""


WRITES = "writes"
"""The key in a session's `info` for the last flush: the hierarchies of classes whose rows it writes."""

_TABLES = re.compile(r'\b(?:INTO|UPDATE|FROM|JOIN)\s+(?:"?\w+"?\.)?"?(\w+)')


def written(session: OrmSession, error: Exception) -> list[str]:
    """Name the classes of the rows that the last flush was writing when it failed: those in the failed statement, or
    all if it shows none.
    """
    mappers = [m for base in session.info.get(WRITES, ()) for m in base.self_and_descendants]
    named = {name.lower() for name in _TABLES.findall(getattr(error, "statement", None) or "")}
    found = [m for m in mappers if {t.name.lower() for t in m.tables} & named] or mappers
    return sorted(f"{of_class(m.class_)}, table {m.local_table}: rows of it were being written" for m in found)


def order(session: OrmSession, flush: UOWTransaction, _instances: object) -> None:
    """Order a flush by the foreign keys of its tables: SQLAlchemy's event `before_flush`."""
    states = {*session._new, *session._deleted, *session._dirty_states}
    hierarchies = frozenset(state.manager.mapper.base_mapper for state in states)
    session.info[WRITES] = hierarchies  # a flush that fails forgets them
    references = _references(hierarchies)
    for child, parent, _, _ in references:
        flush.dependencies.add((_SaveUpdateAll(flush, parent), _SaveUpdateAll(flush, child)))
        flush.dependencies.add((_DeleteAll(flush, child), _DeleteAll(flush, parent)))
        flush.dependencies.add((_SaveUpdateAll(flush, child), _DeleteAll(flush, parent)))
    if references:
        flush._generate_actions = partial(_generate_actions, flush, references)  # type: ignore[method-assign]


def _generate_actions(flush: UOWTransaction, references: tuple[Reference, ...]) -> Any:
    """Let the ORM break circles up into actions for each row; then order these."""
    del flush._generate_actions  # else the flush, with all its rows, would be left to the garbage collector
    actions = flush._generate_actions()
    for reference in references:
        for all_rows, one_row, deleted in (
            (_SaveUpdateAll, _SaveUpdateState, False),
            (_DeleteAll, _DeleteState, True),
        ):
            if all_rows(flush, reference.child) in flush.cycles and all_rows(flush, reference.parent) in flush.cycles:
                for child, parent in _rows(flush, reference, deleted=deleted):
                    edge = one_row(flush, parent), one_row(flush, child)
                    flush.dependencies.add(edge[::-1] if deleted else edge)
    return actions


def _rows(flush: UOWTransaction, reference: Reference, *, deleted: bool) -> Iterator[tuple[Any, Any]]:
    """Yield the rows that refer to another row of this flush, each with that row."""
    parents = {
        _values(state, reference.refers_to): state
        for state in flush.states_for_mapper_hierarchy(reference.parent, deleted, listonly=False)
    }
    for state in flush.states_for_mapper_hierarchy(reference.child, deleted, listonly=False):
        parent = parents.get(_values(state, reference.columns, before=deleted))
        if parent is not None and parent is not state:
            yield state, parent


def _values(state: Any, names: tuple[str, ...], *, before: bool = False) -> tuple[object, ...]:
    """Return a row's values as they will be written, or as they were `before` this transaction changed them."""
    return tuple(
        state.committed_state[name] if before and name in state.committed_state else state.dict.get(name)
        for name in names
    )


@lru_cache(maxsize=500)  # A service changes few sets of tables together.
def _references(hierarchies: frozenset[Mapper[Any]]) -> tuple[Reference, ...]:
    """Return the foreign keys between these hierarchies."""
    owners: dict[Any, Mapper[Any]] = {}
    for mapper in (mapper for base in hierarchies for mapper in base.self_and_descendants):
        for table in mapper.tables:
            owners.setdefault(table, mapper)  # the class nearest to the base
    found = []
    for table, mapper in owners.items():
        for key in table.foreign_key_constraints:
            try:
                parent = owners.get(key.referred_table)
            except NoReferenceError:  # to a table that has no model
                continue
            if parent is not None and not _is_left_out(key, mapper, parent):
                found.append(
                    Reference(
                        mapper.base_mapper,
                        parent.base_mapper,
                        tuple(mapper.get_property_by_column(element.parent).key for element in key.elements),
                        tuple(parent.get_property_by_column(element.column).key for element in key.elements),
                    )
                )
    return tuple(found)


def _is_left_out(key: ForeignKeyConstraint, mapper: Mapper[Any], parent: Mapper[Any]) -> bool:
    """Whether a key does not affect the order of a flush: PostgreSQL checks it only at the commit, a relationship sets
    it in a separate UPDATE, or it joins two tables into one row.
    """
    if key.deferrable and str(key.initially).upper() == "DEFERRED":
        return True
    columns = set(key.columns)
    if any(
        relationship.post_update and columns <= relationship.local_columns | relationship.remote_side
        for owner in (mapper, parent)
        for relationship in owner.relationships
    ):
        return True
    inherited = mapper.inherits is not None and key.referred_table in mapper.inherits.tables
    return inherited and columns == set(mapper.local_table.primary_key)
