"""The protocol with one step taken away, one at a time: the simulation is worth what it finds of these.

    python -m tests.simulation.mutants >tests/simulation/teeth.md

writes the table: each mutant, with the scenario, fault and call that found it out. Survivors are played in every
scenario with every fault, which takes minutes.

A mutant is a patch of a line or two: of the production cycle or its intake, or of the port or the server that keeps the
other half of the contract. Its text must occur exactly once in the module, so no patch outlives its line.
"""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from tests.simulation.exploring import SCENARIOS, explore, read
from tests.simulation.faults import Fault
from tests.simulation.world import Parts

CYCLE, INTAKE, PARKING, CLIENT, BROKER, SERVER = (
    "shared.protocol.cycle",
    "shared.protocol.intake",
    "shared.protocol.parking",
    "tests.simulation.client",
    "tests.simulation.broker",
    "tests.simulation.postgres",
)


BLOCKED = "1/1/1 +r1a a=e1 " + " ".join(f"+r{n}c !r{n}c" for n in range(2, 12)) + " !r1a"
"""A request holds an event's aggregate for so long that the handler gives up repeatedly."""


class Mutant(NamedTuple):
    """One patch."""

    name: str
    module: str
    old: str
    new: str
    scenario: str = "events"
    """The scenario that finds it out, by name or text..."""
    fault: Fault = Fault.NONE
    """... and by which fault."""
    survives: str | None = None
    """Why this world cannot show it."""


def _patched(module: str, mutant: Mutant | None = None) -> Any:
    """Load `module` once more, patched as `mutant` says."""
    original = importlib.import_module(module)
    assert original.__file__ is not None
    source = Path(original.__file__).read_text()
    if mutant is not None:
        assert source.count(mutant.old) == 1, f"{mutant.name}: its text occurs {source.count(mutant.old)} times"
        source = source.replace(mutant.old, mutant.new)
    patched: Any = ModuleType(module)
    sys.modules["patched"] = patched  # dataclasses look for the module of their class
    patched.__name__ = "patched"
    patched.__package__ = original.__package__  # from there its imports are relative
    exec(compile(source, mutant.name if mutant else module, "exec"), vars(patched))
    return patched


def parts(mutant: Mutant) -> Parts:
    """Return the parts of a simulation, one of them patched."""
    patched = _patched(mutant.module, mutant)
    if mutant.module in {INTAKE, PARKING}:
        cycle = _patched(CYCLE)
        name = "Intake" if mutant.module == INTAKE else "Parking"
        setattr(cycle, name, getattr(patched, name))
        return Parts(cycle=cycle.Cycle)
    if mutant.module == CYCLE:
        return Parts(cycle=patched.Cycle)
    if mutant.module == CLIENT:
        return Parts(client=patched.Client)
    if mutant.module == BROKER:
        return Parts(broker=patched.Broker)
    return Parts(server=patched.Postgres, connection=patched.Connection)


def killed(mutant: Mutant, name: str, fault: Fault | None) -> str | None:
    """Play a scenario with `fault`, or each fault, at every call; return how the mutant was found out."""
    for plan, run in explore(read(name), 1, parts(mutant), fault):
        if run.violation:
            where = [f"{fault.value} at {run.points[at].call}" for at, fault in plan.items()] or ["no fault"]
            found = re.sub(r"[\[(:].*", "", run.violation.removeprefix("Violated: "))
            return f"{name} | {where[0]} | {found.strip()}"
    return None


MUTANTS = (
    # ---- the two commits
    Mutant(
        "the published position is committed outside the transaction",
        CYCLE,
        """            self._kafka.send_offsets(inputs, lanes, group_metadata)
            self._kafka.commit()
        except""",
        """            self._kafka.commit()
            self._kafka.begin()
            self._kafka.send_offsets(inputs, lanes, group_metadata)
            self._kafka.commit()
        except""",
        fault=Fault.DIE,
    ),
    Mutant(
        "Kafka is committed before Postgres",
        CYCLE,
        "            transaction.commit()  # 2.7\n",
        """            if claims:
                self._seen.update(moved)
                self._publish(claims, rows, moved, polled.group_metadata)
            claims = {}
            transaction.commit()
""",
        fault=Fault.DIE,
    ),
    Mutant(
        "the rows are deleted with their claim",
        CYCLE,
        "            claims, rows = self._claim(transaction)\n",
        """            claims, rows = self._claim(transaction)
            transaction.forget(claims)
""",
        fault=Fault.DIE,
    ),
    # ---- Postgres
    Mutant(
        "records below the next offset are handled",
        CYCLE,
        "        fresh = [one for one in read if one.record.offset >= positions[one.record.input].next_offset]\n",
        "        fresh = read\n",
        scenario="two-workers",
        fault=Fault.FREEZE,
    ),
    Mutant(
        "the positions are not locked",
        SERVER,
        """        for source in sorted(inputs):
            self._lock(source)
""",
        "",
        scenario="two-workers",
        fault=Fault.FREEZE,
    ),
    Mutant("no inbox", SERVER, "new = set(ids) - self._server.inbox", "new = set(ids)"),
    Mutant(
        "the inbox is not part of the transaction",
        SERVER,
        "        self._changes.inbox |= new\n",
        "        self._server.inbox |= new\n",
        fault=Fault.DIE,
    ),
    Mutant(
        "duplicates in one batch are both handled",
        CYCLE,
        "            new.discard(identity)  # a duplicate in the same batch is dropped too\n",
        "",
        fault=Fault.PAUSE,
    ),
    Mutant(
        "the aggregate is not locked before its row is inserted",
        SERVER,
        '            self._lock(("aggregate", envelope.key))\n',
        "",
        scenario="two-workers",
        fault=Fault.FREEZE,
    ),
    Mutant(
        "the next offset can go back",
        SERVER,
        "max(offset, self._position(source) or 0)",
        "offset",
        survives="the cycle gives no next offset below the locked row either; one of the two would do",
    ),
    Mutant("the next offset is not moved", CYCLE, "        transaction.advance(moved)  # 2.5\n", ""),
    # ---- claims
    Mutant(
        "the claims are not locked",
        SERVER,
        """        for lane in sorted(lanes):
            self._lock(lane)
        return""",
        "        return",
        scenario="two-workers",
        fault=Fault.FREEZE,
    ),
    Mutant(
        "a cursor instead of a list of ids",
        SERVER,
        "        claims = self._name({lane: self._waiting(lane)[:limit] for lane, limit in limits.items()}, 1)\n",
        """        passed = vars(self._server).setdefault("passed", {})
        rows = {lane: [i for i in self._waiting(lane) if i > passed.get(lane, 0)][:n] for lane, n in limits.items()}
        passed |= {lane: max(ids) for lane, ids in rows.items() if ids}
        claims = self._name(rows, 1)
""",
        scenario="requests",
    ),
    Mutant(
        "the next rows are claimed before the last are deleted",
        CYCLE,
        """        if spent:
            transaction.forget(spent)
        claims, rows = transaction.claim(done, unpublished)
""",
        """        claims, rows = transaction.claim(done, unpublished)
        if spent:
            transaction.forget(spent)
""",
        scenario="two-workers",
        fault=Fault.DIE,
    ),
    Mutant(
        "an unpublished claim is taken for published",
        CYCLE,
        "                unpublished[lane] = claim\n",
        "                done[lane] = self._limits.rows\n",
        fault=Fault.DIE,
    ),
    Mutant(
        "lanes are claimed that somebody else owns",
        CYCLE,
        "changed = self._compare(self._owned)",
        "changed = self._compare(self._owned._replace(lanes=frozenset({0, 1})))",
        scenario="two-workers",
    ),
    Mutant(
        "rows are claimed latest first",
        SERVER,
        "self._waiting(lane)[:limit]",
        "self._waiting(lane)[-limit:]",
        scenario="requests",
        fault=Fault.FREEZE,
    ),
    Mutant(
        "only what the worker handled itself is published",
        CYCLE,
        "(self._spent or self._unreported())) and not self._unpublished():",
        "(self._spent or self._unreported())):",
        scenario="handover",
    ),
    Mutant(
        "claim ids are not compared",
        CYCLE,
        "claim == (published.offset, published.metadata, claim.rows)",
        "claim.position == published.offset",
        survives="here Postgres never goes back; "
        "found in tests/unit/protocol/test_cycle.py: a_claim_of_the_same_number",
    ),
    Mutant(
        "a database that went back is not noticed",
        CYCLE,
        "positions[source].next_offset < self._seen[source]",
        "positions[source].next_offset < 0",
        survives="as above; found by h_below_what_this_worker_has_seen",
    ),
    # ---- no transaction without a reason
    Mutant(
        "what was passed stays above the next offset",
        INTAKE,
        "        for source, end in self._passed.items():\n",
        "        for source, end in ():\n",
        scenario="skipped",
        survives="the end of the input moves it too; found by records_without_an_effect_need_no_transaction",
    ),
    Mutant(
        "what was passed is taken for the end, whatever comes before it",
        INTAKE,
        "            self._passed[record.input] = record.offset + 1\n",
        "            self._passed[record.input] = record.offset + 3\n",
        scenario="skipped",
    ),
    Mutant(
        "a batch is passed if any of its records has no effect",
        CYCLE,
        "not any(one.matters for one in read):",
        "not all(one.matters for one in read):",
        scenario="skipped",
        fault=Fault.PAUSE,
    ),
    Mutant(
        "a noted batch is passed without a transaction",
        CYCLE,
        "if batch and not watched and",
        "if batch and",
        scenario="skipped",
        survives=(
            "the note is deleted with the next one, or is read below the next offset that the next report moves; it "
            "would blame records of a type that nobody consumes if the process were killed four times before; found by "
            "records_without_an_effect_are_read_again"
        ),
    ),
    Mutant(
        "what Kafka has stays in the outbox of a quiet lane",
        CYCLE,
        "(report and (self._spent or self._unreported()))",
        "(report and self._unreported())",
        scenario="requests",
    ),
    Mutant(
        "a claim is forgotten if its publishing could not begin",
        CYCLE,
        "self._claimed or self._full or",
        "self._full or",
        fault=Fault.DIE,
        survives="the next report finds it; found by a_claim_whose_publishing_could_not_begin",
    ),
    Mutant(
        "a resumed worker does not know that rows wait to be deleted",
        CYCLE,
        "        self._spent = any(claims[lane].rows for lane in share.lanes)\n",
        "",
        scenario="requests",
        fault=Fault.DIE,
    ),
    Mutant(
        "the inbox takes what is below the next offset",
        SERVER,
        " for a in arrivals if a.offset >= (found[a.input] or 0)]",
        " for a in arrivals]",
        scenario="two-workers",
        survives=(
            "it was received before, or set aside; only a redrive would miss it: "
            "found in tests/contract/test_transaction.py"
        ),
    ),
    # ---- doubt and recovery
    Mutant(
        "rows are deleted though their commit is doubted",
        CYCLE,
        "            self._kafka.confirm()\n",
        "            pass\n",
        fault=Fault.FORGET_COMMIT,
    ),
    Mutant(
        "a doubtful commit is taken for done",
        CYCLE,
        "            self._kafka.commit()\n        except",
        """            try:
                self._kafka.commit()
            except RecoveryNeeded:
                pass
        except""",
        fault=Fault.REFUSE,
    ),
    Mutant(
        "a doubtful commit is published again from memory",
        CYCLE,
        "            self._kafka.commit()\n        except",
        """            try:
                self._kafka.commit()
            except RecoveryNeeded:
                self._kafka.renew()
                self._kafka.begin()
                self._kafka.produce(rows)
                self._kafka.send_offsets(inputs, lanes, group_metadata)
                self._kafka.commit()
        except""",
        fault=Fault.LOSE,
    ),
    Mutant(
        "rows that were not acknowledged are taken for published",
        CLIENT,
        "        self._send(fault, produce)\n",
        "        if fault is Fault.NONE:\n            produce()\n",
        fault=Fault.REFUSE,
    ),
    Mutant(
        "a commit does not wait for the rows that are on their way",
        CLIENT,
        "    def commit(self) -> None:\n        self._deliver()\n",
        "    def commit(self) -> None:\n",
    ),
    Mutant(
        "a commit ignores a row that failed",
        CLIENT,
        "    def commit(self) -> None:\n        self._deliver()\n",
        """    def commit(self) -> None:
        try:
            self._deliver()
        except KafkaInDoubt:
            self._spoilt = None
""",
        fault=Fault.REFUSE,
    ),
    Mutant(
        "a row that failed while offsets were sent is not noticed",
        CLIENT,
        """        if self._ahead:
            self._deliver()
""",
        """        try:
            if self._ahead:
                self._deliver()
        except KafkaInDoubt:
            self._spoilt = None
""",
        fault=Fault.REFUSE,
    ),
    Mutant(
        "a lost generation is taken for done",
        CYCLE,
        "        except ContentRefused as error:\n            if",
        "        except GenerationLost:\n            pass\n        except ContentRefused as error:\n            if",
        fault=Fault.EXPEL,
    ),
    Mutant(
        "no new producer after a doubt",
        CYCLE,
        "        self._kafka.renew()  # R1\n",
        """        if not hasattr(self, "_renewed"):
            self._kafka.renew()
            self._renewed = True
""",
        fault=Fault.LATE,
    ),
    Mutant(
        "the committed offsets are not asked after a doubt",
        CYCLE,
        """        self._forget()
        self._database.hold_slot()  # R0
        self._kafka.renew()  # R1
        self._resume()
""",
        """        self._database.hold_slot()
        self._kafka.renew()
        if not self._resumed:
            self._resume()
""",
        fault=Fault.LOSE,
    ),
    Mutant(
        "Postgres is read before the committed offsets",
        CYCLE,
        """        committed = self._kafka.committed(share.inputs, share.lanes)  # R2
        positions = self._database.positions(share.inputs)  # R3
        claims = self._database.claims(share.lanes)
""",
        """        positions = self._database.positions(share.inputs)
        claims = self._database.claims(share.lanes)
        committed = self._kafka.committed(share.inputs, share.lanes)
""",
        scenario="two-workers",
        fault=Fault.FREEZE,
    ),
    Mutant(
        "a published position that looks too low is believed at once",
        CYCLE,
        "published_read_last=False",
        "published_read_last=True",
        scenario="two-workers",
        fault=Fault.SLEEP,
    ),
    Mutant(
        "the published position is remembered when a lane comes back",
        CYCLE,
        """            self._forget()
            changed = self._compare(self._owned)
            if changed is None:
""",
        """            self._kept = vars(self).get("_kept", {}) | self._published
            self._forget()
            changed = self._compare(self._owned)
            if changed is None:
                kept = {lane: published for lane, published in self._kept.items() if lane in self._published}
                self._published |= kept
""",
        scenario="two-workers",
        fault=Fault.FREEZE,
    ),
    Mutant(
        "position 0 is not committed before the first claim",
        CYCLE,
        """        self._kafka.begin()
        self._kafka.send_offsets({}, start, group_metadata)
        self._kafka.commit()
""",
        "",
        fault=Fault.DIE,
    ),
    # ---- what Kafka's side of the contract is needed for
    Mutant(
        "the generation is not checked",
        BROKER,
        "self.members.get(of) != member or self.generation != generation",
        "(of, member, generation) is None",
        scenario="two-workers",
        fault=Fault.FREEZE,
    ),
    Mutant(
        "the group metadata is that of the sending, not of the batch",
        CLIENT,
        "self._broker.stage(self.slot, epoch, offsets, group_metadata)",
        "self._broker.stage(self.slot, epoch, offsets, (self.slot, self.member, self._broker.generation))",
        scenario="two-workers",
        fault=Fault.FREEZE,
    ),
    Mutant(
        "what was taken back is read",
        BROKER,
        "return entry.value if entry.state is State.COMMITTED else None",
        "return entry.value",
    ),
    Mutant(
        "offsets are given that are not stable",
        BROKER,
        "        self.see_settled(keys)\n",
        "",
        scenario="two-workers",
        fault=Fault.FREEZE,
    ),
    Mutant(
        "init does not raise the epoch",
        BROKER,
        "            self._finish(producer, commit=False)\n        producer.epoch += 1\n",
        "            self._finish(producer, commit=False)\n        producer.epoch = max(producer.epoch, 1)\n",
        fault=Fault.LATE_INSIDE,
    ),
    Mutant(
        "old epochs are not fenced", BROKER, "if producer.epoch != epoch:", "if epoch < 0:", fault=Fault.LATE_INSIDE
    ),
    Mutant(
        "a suspect producer is kept",
        CLIENT,
        '        raise KafkaInDoubt("committed, but under suspicion")\n',
        "        return\n",
        fault=Fault.TWICE,
    ),
    Mutant(
        "nobody sees that what was open has ended",
        CLIENT,
        "if self._broker.is_open():",
        "if self._epoch == -1:",
        fault=Fault.FORGET,
    ),
    Mutant(
        "nobody sees that the offsets of others are settled",
        CLIENT,
        "        self._broker.see_settled((*self._broker.inputs, *self._broker.published))\n",
        "",
        scenario="handover",
        fault=Fault.FORGET_OFFSETS,
    ),
    Mutant(
        "a lost slot is kept",
        SERVER,
        "            raise SlotLost\n",
        "            return\n",
        scenario="standby",
        fault=Fault.SLEEP,
        survives="Kafka fences the member and the epoch of the slot too; the slot saves them from meeting",
    ),
    # ---- records that end what handles them
    Mutant(
        "nothing is noted before it is handled",
        CYCLE,
        "            self._database.attempt(batch)\n",
        "            pass\n",
        scenario="fatal",
    ),
    Mutant(
        "the note goes before the COMMIT",
        SERVER,
        "        self._changes.forgotten |= self._connection.attempted\n",
        "        self._server.forget_notes(self._connection.attempted)\n",
        scenario="fatal-to-two",
    ),
    Mutant(
        "the note stays when the next offset moves past it",
        SERVER,
        "        self.forget_notes(changes.forgotten)\n",
        "",
        scenario="fatal",
        survives=(
            "who reads the notes forgets those below the next offset; and a record below it is dropped, "
            "whatever is noted of it"
        ),
    ),
    Mutant(
        "notes below the next offset are believed",
        SERVER,
        "if self.server.positions[s] > note.last])",
        "if note.last < 0])",
        scenario="fatal",
        survives=(
            "as above: one of the three would do; a decision that lowers the next offset forgets the notes of its input"
        ),
    ),
    Mutant(
        "an attempt counts though the process outlived it",
        SERVER,
        """        if self.session is None or not self.session.alive:
            self.attempted.clear()
        if self.attempted and""",
        """        self.attempted.clear()
        if self.attempted and""",
        scenario=BLOCKED,
        fault=Fault.EXPEL,
    ),
    Mutant(
        "an attempt does not count if only the session ended",
        SERVER,
        """        if self.session is None or not self.session.alive:
            self.attempted.clear()
        if self.attempted and""",
        "        if self.attempted and",
        scenario="fatal-to-two",
    ),
    Mutant(
        "an end in company counts as one alone",
        SERVER,
        "            ends = int(len(records) == 1)\n",
        "            ends = 1\n",
        scenario="fatal",
    ),
    Mutant(
        "what was in company is not tried in parts",
        INTAKE,
        "                self._in_parts[source] = attempt\n",
        "                pass\n",
        scenario="fatal",
    ),
    Mutant(
        "a part is never of one record",
        INTAKE,
        "            return tried[:1]\n",
        "            return tried[:2]\n",
        scenario="fatal",
    ),
    Mutant(
        "a part is as large as what it is part of",
        INTAKE,
        " if record.offset < first[record.input] + self._in_parts[record.input].part]",
        "]",
        scenario="fatal-among-many",
    ),
    Mutant(
        "what is behind a part is in the batch with it",
        INTAKE,
        "        for record in islice(self._part() or self._ready(), self._limit):\n",
        """        part = self._part()
        behind = (record for record in self._ready() if record not in part)
        for record in islice((*part, *behind), self._limit):
""",
        scenario="fatal-among-many",
    ),
    Mutant(
        "all that was in company is set aside",
        INTAKE,
        "                self._in_parts[source] = attempt\n",
        (
            "                self._rejected |= "
            "{(source, at): attempt.error for at in range(attempt.offset, attempt.last + 1)}\n"
        ),
        scenario="fatal",
    ),
    Mutant(
        "a record is set aside after fewer ends",
        INTAKE,
        "        if attempt.ends >= ENDS:\n",
        "        if attempt.ends >= ENDS - 1:\n",
        scenario="fatal",
    ),
    Mutant(
        "a record is set aside together with those behind it",
        INTAKE,
        """        self._alone.add((source, attempt.offset))
        if attempt.ends >= ENDS:
""",
        """        if attempt.ends < ENDS:
            self._alone.add((source, attempt.offset))
        if attempt.ends >= ENDS:
""",
        scenario="1/1/1 #a=e1 #a=e2",
    ),
    Mutant(
        "what is set aside is handled too",
        CYCLE,
        "None if isinstance(rejected, ProcessEnded) else self._open(record), rejected)",
        "self._open(record))",
        scenario="fatal",
    ),
    Mutant(
        "a record below the next offset is set aside",
        CYCLE,
        "if one.record.offset >= positions[one.record.input].next_offset]",
        "if one.record.offset >= positions[one.record.input].next_offset or one.rejected]",
        scenario="fatal-to-two",
        fault=Fault.FREEZE,
    ),
    Mutant(
        "a record is set aside without the lock of its position",
        CYCLE,
        "        positions, new, held = transaction.receive(sources, _arrivals(read))  # 2.1 and 2.2\n",
        """        rejected_only = bool(read) and all(one.rejected for one in read)
        positions, new, held = self._database.positions(sources), set(), set()
        if not rejected_only:
            positions, new, held = transaction.receive(sources, _arrivals(read))
""",
        scenario="fatal-to-two",
        fault=Fault.FREEZE,
    ),
    Mutant(
        "a record is set aside, and the next offset stays",
        CYCLE,
        "        for record, *_ in read:\n            moved[",
        "        for record in (one.record for one in read if not one.rejected):\n            moved[",
        scenario="fatal",
        fault=Fault.DIE,
    ),
    # ---- records that wait with their key
    Mutant(
        "later records of a parked one are handled",
        CYCLE,
        "            if why is None and key not in held:\n",
        "            if why is None:\n",
        scenario="parked",
    ),
    Mutant(
        "a record that has to wait is passed, and not parked",
        CYCLE,
        "            transaction.park(parked)\n",
        "            pass\n",
        scenario="parked",
    ),
    Mutant(
        "what is parked is not in the inbox",
        SERVER,
        '        self._at("park")\n',
        """        self._at("park")
        self._changes.inbox -= {(one.source, one.event_id) for one in parked}
""",
        scenario="parked",
    ),
    Mutant(
        "what is parked stays when it has taken effect",
        SERVER,
        "        self._changes.taken |= {place(one) for one in there}\n",
        "",
        scenario="parked",
    ),
    Mutant(
        "what is parked is deleted before the COMMIT",
        SERVER,
        "        self._changes.taken |= {place(one) for one in there}\n",
        "        for one in there:\n            del self._server.parked[place(one)]\n",
        scenario="parked",
    ),
    Mutant(
        "parked records are tried latest first",
        SERVER,
        "key=lambda item: item[0]) if one[0][0] in inputs]",
        "key=lambda item: item[0], reverse=True) if one[0][0] in inputs]",
        scenario="parked",
    ),
    Mutant(
        "which keys are held is read before the positions are locked",
        SERVER,
        """        for source in sorted(inputs):
            self._lock(source)
        keys = {(one.record.input, one.record.key or b"") for one in self._server.parked.values()}
""",
        """        keys = {(one.record.input, one.record.key or b"") for one in self._server.parked.values()}
        for source in sorted(inputs):
            self._lock(source)
""",
        scenario="parked-by-two",
        fault=Fault.FREEZE,
        survives="a stall would have to end while its lock is waited for; "
        "found in tests/contract/test_parked.py: a_key_that_is_parked_while_its_position_is_waited_for",
    ),
    Mutant(
        "what was parked before a resume is not known",
        CYCLE,
        "        self._parking.waiting = waiting or {}\n",
        "",
        scenario="parked",
        fault=Fault.DIE,
    ),
    Mutant(
        "what a stalled worker parks after a resume is not noticed",
        CYCLE,
        "positions[source].next_offset > self._seen[source])",
        "positions[source].next_offset < 0)",
        scenario="parked-by-two",
        fault=Fault.FREEZE,
        survives="it joins the group again, so all resume, unless it dies at once; "
        "found in tests/unit/protocol/test_parking.py: what_a_worker_parks_that_stalled",
    ),
    Mutant(
        "a parked record that was gone is handled",
        CYCLE,
        "        there = transaction.take(tried)\n",
        "        transaction.take(tried)\n        there = tried\n",
        scenario="parked-by-two",
        fault=Fault.FREEZE,
    ),
    Mutant(
        "parked records are tried without the locks of their positions",
        CYCLE,
        "self._refuse_older(transaction.receive(sources, ()).positions, sources)  # P2.1",
        "self._refuse_older(self._database.positions(sources), sources)",
        scenario="parked-by-two",
        fault=Fault.FREEZE,
        survives="their rows are locked too; one of the two would do, and commands take both",
    ),
    Mutant(
        "parked records are tried without the locks of their rows",
        SERVER,
        """        for one in parked:
            self._lock(("parked", *place(one)))
""",
        "",
        scenario="parked-by-two",
        fault=Fault.FREEZE,
        survives="as above",
    ),
    Mutant(
        "parked records of inputs that somebody else owns are tried",
        SERVER,
        "key=lambda item: item[0]) if one[0][0] in inputs]",
        "key=lambda item: item[0])]",
        scenario="parked-by-two",
        fault=Fault.FREEZE,
        survives="the locks make that harmless: it is how a worker that has lost them behaves",
    ),
    Mutant(
        "a parked record that ends its process is tried for ever",
        PARKING,
        "        if parked.ends > ENDS:\n",
        "        if parked.ends < 0:\n",
        scenario="parked-and-fatal",
    ),
    Mutant(
        "a parked record is set aside after fewer ends",
        PARKING,
        "        if parked.ends > ENDS:\n",
        "        if parked.ends > ENDS - 1:\n",
        scenario="parked-and-fatal",
    ),
    Mutant(
        "a parked record at which a process ended is tried in company",
        SERVER,
        "chosen = suspects[:1] or found[:most]",
        "chosen = found[:most]",
        scenario="parked-and-fatal",
    ),
    Mutant(
        "the event of a parked record that is set aside stays in the inbox",
        CYCLE,
        "        if aside:\n",
        "        if not aside:\n",
        scenario="parked-and-fatal",
    ),
    Mutant(
        "the attempt at a parked record counts though the process outlived it",
        SERVER,
        """        self._withdraw()
        found = """,
        "        found = ",
        scenario="parked-and-fatal",
        fault=Fault.REFUSE,
    ),
    # ---- topics that an operator has paused
    Mutant(
        "a share is taken over with the inputs that are paused",
        CYCLE,
        "self._kafka.read_from({i: self._seen[i] for i in self._read_inputs}, self._owned.lanes)",
        "self._kafka.read_from(self._seen, self._owned.lanes)",
        scenario="paused",
        survives="the intake takes nothing of them; found in tests/unit/protocol/test_cycle_pause.py: "
        "a_worker_that_takes_over_fetches_nothing_of_it",
    ),
    Mutant(
        "a pause waits for the next assignment",
        CYCLE,
        "        if any(source.topic in changed for source in self._owned.inputs):\n",
        "        if not topics and changed:\n",
        scenario="paused",
    ),
    Mutant(
        "a topic that is resumed waits for the next assignment",
        CYCLE,
        "        if any(source.topic in changed for source in self._owned.inputs):\n",
        "        if topics:\n",
        scenario="paused",
    ),
    Mutant(
        "parked records of a paused topic are tried",
        CYCLE,
        "self._database.next_parked(self._read_inputs, self._parking.limit)",
        "self._database.next_parked(self._owned.inputs, self._parking.limit)",
        scenario="paused",
        survives="nobody asks for them: what waits is counted of the inputs that are read; one of the two would do",
    ),
    Mutant(
        "what was fetched of a paused topic is handled",
        CYCLE,
        "self._intake = Intake(self._read_inputs, ",
        "self._intake = Intake(self._owned.inputs, ",
        scenario="paused",
        survives="nothing of them is fetched; one of the two would do",
    ),
    # ---- dead letters that hold their key
    Mutant(
        "a dead letter that holds its key lets later records of its batch go on",
        CYCLE,
        """, first=key not in held))
                    held.add(key)
""",
        """, first=key not in held))
""",
        scenario="held-in-a-batch",
    ),
    Mutant(
        "a dead letter keeps no place among the parked records",
        CYCLE,
        "                    parked.append(_in_its_place(delivery, first=key not in held))\n",
        "",
        scenario="held",
    ),
    Mutant(
        "a parked record that becomes a dead letter leaves its place",
        CYCLE,
        "            transaction.park(holding)\n",
        "            pass\n",
        scenario="parked-and-held",
    ),
    Mutant(
        "what was chosen before its key was held is taken",
        SERVER,
        " if place(one) in self._server.parked and self._server.free(one)]",
        " if place(one) in self._server.parked]",
        scenario="parked-and-held",
        fault=Fault.FREEZE,
    ),
)


def main() -> None:
    """Print the table."""
    sys.stdout.write("| what is wrong | scenario | fault | what is seen |\n|---|---|---|---|\n")
    for mutant in MUTANTS:
        if mutant.survives:
            found = next((f for name in SCENARIOS if (f := killed(mutant, name, None))), None)
        else:
            found = killed(mutant, mutant.scenario, mutant.fault)
        sys.stdout.write(f"| {mutant.name} | {found or f'all | each | **nothing**: {mutant.survives}'} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
