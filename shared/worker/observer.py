"""Watches a service even while its worker does not work: lag and backlog, whether the servers answer, and who holds the
topics back. A thread with its own client, which joins no group and changes nothing.
"""

import threading
import time
from collections.abc import Collection
from contextlib import suppress

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from ..kafka.brokers import Brokers
from ..kafka.connections import Connections
from ..kafka.held_back import HELD_SECONDS, Held, ask
from ..kafka.topics import needed
from ..postgres import backlog, dead_letters, parked, pauses, schedule
from ..protocol.ports import Input
from ..service import Service
from ..settings import Settings
from ..telemetry import logs, metrics, outages
from ..telemetry.gauges import Known
from ..telemetry.logs import log
from .paused import Paused

LOOK_SECONDS = 3.0
"""Seconds between two looks. Each sends Kafka three requests, and PostgreSQL some, which take milliseconds."""

ANSWER_SECONDS = 4.0
"""Timeout of one request to Kafka, and of a look's wait for PostgreSQL."""

SILENT_SECONDS = 10.0
"""A server that has not answered for this long counts as down: two looks, plus slack for a busy machine."""

LOOKS = (backlog, dead_letters, parked, schedule, pauses)
"""What is looked at in PostgreSQL besides the positions, by a statement of each; the backlog first, pauses last."""

_GAUGES = tuple(gauge for what in LOOKS for gauge in vars(what).values() if isinstance(gauge, Known))
"""What they show."""

_HANDLED = text("SELECT topic, partition, next_offset FROM exactly_once_position WHERE topic = ANY(:topics)")


class Answers:
    """Tracks how long a server has been silent, from its first unanswered request on; without one it is not silent."""

    def __init__(self, server: str, outage: outages.Outage) -> None:
        self._server = server
        self._outage = outage
        self._asked: float | None = None
        self.error = ""
        """The client's error for the last request."""

    def ask(self) -> None:
        """Note a request; the first unanswered one counts."""
        if self._asked is None:
            self._asked = time.monotonic()

    def answered(self) -> None:
        """Note an answer to another client, or to part of the request: the rest counts from now on."""
        if self._asked is not None:
            self._asked = time.monotonic()
        self.error = ""
        self._outage.answered("observer")

    def end(self) -> None:
        """Note that everything was answered."""
        self._asked = None
        self.answered()

    def silence(self) -> str:
        """Say for how long there has been no answer; empty while there is one."""
        asked = self._asked
        seconds = time.monotonic() - asked if asked is not None else 0.0
        if seconds <= SILENT_SECONDS:
            return ""
        words = f"{self._server} has not answered for {seconds:.0f} s"
        self._outage.missed("observer", f"{words}; {self.error}" if self.error else words, for_seconds=seconds)
        return words


class Observer:
    """Shows `exactly_once_consumer_lag_records`, `exactly_once_partition_held_back_seconds`, `outbox_*`,
    `exactly_once_kafka_*` and whether Kafka answers, until it is stopped.
    """

    def __init__(self, engine: Engine, settings: Settings, service: Service) -> None:
        self._engine = engine
        self._settings = settings
        self._service = service
        self._admin: AdminClient | None = None
        self._kafka = Answers("Kafka", outages.KAFKA)
        self._database = Answers("PostgreSQL", outages.DATABASE)
        self._owned: frozenset[Input] = frozenset()
        self._lanes: frozenset[int] = frozenset()
        self._topics = TopicCollection(needed(service))
        self._brokers = Brokers()
        self._connections = Connections()
        self.paused = Paused()
        """The topics that an operator has paused."""
        self._ends: dict[Input, int] = {}
        self._handled: dict[Input, int] = {}
        self._held: dict[Input, Held] = {}
        self._asking: threading.Thread | None = None
        self._reading: threading.Thread | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)

    def start(self) -> None:
        """Start, unless already started."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Stop after the current request."""
        self._stopping.set()

    def own(self, inputs: Collection[Input], lanes: Collection[int]) -> None:
        """Show the lag of these inputs, and what waits in these lanes, from now on; other workers show the rest. A
        worker that owns none shows all, since no worker of a stopped service owns any.
        """
        self._owned, self._lanes = frozenset(inputs), frozenset(lanes)

    def answered(self) -> None:
        """Note that Kafka has just answered this process."""
        self._kafka.answered()

    def silence(self) -> str:
        """Say which server does not answer, and for how long; empty while both do."""
        return "; ".join(filter(None, (self._kafka.silence(), self._database.silence())))

    def held_back(self) -> str:
        """Say which of the inputs owned are held back, and by whom; empty if none is."""
        found = sorted(dict(self._held).items())
        return "; ".join(str(held) for source, held in found if held.reported and self._ours(source))

    def _ours(self, source: Input) -> bool:
        return not self._owned or source in self._owned

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except Exception:  # noqa: BLE001 - the next look may succeed
                log.exception("observer_failed")
            self._stopping.wait(LOOK_SECONDS)

    def look(self) -> None:
        """Look once. Kafka comes first: records handled meanwhile must not count as lag."""
        self._see_kafka()
        self._show()
        self._read_database()
        self.silence()  # for the log, even if no health check asks
        self._show()
        if self._admin is not None:
            self._brokers.ask(self._admin)

    # ---- Kafka

    def _see_kafka(self) -> None:
        self._ends = {}
        admin, self._admin = self._admin, None
        self._kafka.ask()
        try:
            if admin is None:
                admin = AdminClient(
                    {
                        **self._settings.kafka(),
                        "client.id": f"{self._service.name}-observer",
                        **self._connections.settings(),
                    },
                    logger=logs.of_client(f"{self._service.name}.observer"),
                )
            admin.poll(0)  # serves the log and the statistics
            inputs = self._inputs(admin)
            self._kafka.end()
            self._kafka.ask()
            stable = self._offsets(admin, inputs, IsolationLevel.READ_COMMITTED)
            self._ends = self._offsets(admin, inputs, IsolationLevel.READ_UNCOMMITTED)
        except (KafkaException, TimeoutError) as error:
            self._kafka.error = str(error)
            return
        finally:
            if admin is not None:
                admin.poll(0)  # it may be given up, and has something to tell of that
        if self._ends or not inputs:
            self._kafka.end()
        if len(stable) == len(self._ends) == len(inputs):
            self._admin = admin  # else a new one next time: an old client may know only leaders that are gone
        # The ends are read last: a transaction that wrote and ended meanwhile appears held back, in this look only.
        self._see_held({source: at for source, at in stable.items() if at < self._ends.get(source, at)})

    def _inputs(self, admin: AdminClient) -> list[Input]:
        found = {}
        for name, answer in admin.describe_topics(self._topics, request_timeout=ANSWER_SECONDS).items():
            try:
                found[name] = answer.result(2 * ANSWER_SECONDS).partitions
            except KafkaException as error:
                gone = error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART  # which is an answer
                if name in self._service.consumed_topics and not gone:
                    raise
        self._brokers.see(found)
        return [Input(name, n) for name in self._service.consumed_topics for n in range(len(found.get(name, ())))]

    def _offsets(self, admin: AdminClient, inputs: Collection[Input], level: IsolationLevel) -> dict[Input, int]:
        """Return the ends of the inputs whose leaders answer."""
        asked = {TopicPartition(*source): OffsetSpec.latest() for source in inputs}  # type: ignore[no-untyped-call]
        found = {}
        answers = admin.list_offsets(asked, isolation_level=level, request_timeout=ANSWER_SECONDS) if asked else {}
        for p, answer in answers.items():
            with suppress(KafkaException, TimeoutError):
                found[Input(p.topic, p.partition)] = int(answer.result(2 * ANSWER_SECONDS).offset)
        # If a leader does not answer, the client returns a negative offset instead of an error.
        return {source: offset for source, offset in found.items() if offset >= 0}

    def _see_held(self, stable: dict[Input, int]) -> None:
        for source in [source for source, found in self._held.items() if stable.get(source) != found.offset]:
            gone = self._held.pop(source)
            if gone.reported:
                log.warning("held_back_ended", source=str(source), offset=gone.offset, seconds=round(gone.seconds()))
        for source, offset in stable.items():
            self._held.setdefault(source, Held(source, offset))
        self._ask_who_holds()
        self._tell_who_holds()

    def _ask_who_holds(self) -> None:
        """Ask on a separate thread: brokers that do not answer must not delay the next look."""
        due = [found for found in self._held.values() if not found.asked and found.seconds() > HELD_SECONDS]
        if due and (self._asking is None or not self._asking.is_alive()):
            arguments = (self._settings, self._service.name, due)
            self._asking = threading.Thread(target=ask, args=arguments, name="held back", daemon=True)
            self._asking.start()

    def _tell_who_holds(self) -> None:
        for source, found in self._held.items():
            if found.asked and not found.reported:
                found.reported = True
                log.warning(
                    "held_back",
                    source=str(source),
                    offset=found.offset,
                    transactional_id=found.holder.transactional_id or None,
                    producer_id=found.holder.producer_id,
                    detail=str(found),
                )
        metrics.HELD.show(
            {
                (source.topic, str(source.partition)): self._held[source].seconds() if source in self._held else 0.0
                for source in self._ends
            }
        )
        metrics.HOLDERS.show(
            {
                (source.topic, str(source.partition), found.holder.transactional_id or "unknown"): 1.0
                for source, found in self._held.items()
                if found.reported
            }
        )

    # ---- PostgreSQL

    def _read_database(self) -> None:
        """Read on a separate thread: a server that hangs blocks it for ever, and must not hide Kafka's state."""
        if self._reading is not None and self._reading.is_alive():
            return
        self._reading = threading.Thread(target=self._see_database, name="observer of PostgreSQL", daemon=True)
        self._database.ask()
        self._reading.start()
        self._reading.join(ANSWER_SECONDS)

    def _see_database(self) -> None:
        try:
            with self._engine.connect() as connection:
                self._database.answered()
                with connection.begin():
                    rows = connection.execute(_HANDLED, {"topics": list(self._service.consumed_topics)}).all()
                self._handled = {Input(topic, partition): offset for topic, partition, offset in rows}
                asked = time.monotonic()
                with connection.begin():
                    waiting, *_, paused = [what.look(connection) for what in LOOKS]
                backlog.show_lanes(waiting.lanes, self._lanes)
                pauses.show(paused, self._service.consumed_topics)
                self.paused.note(paused, asked)
            self._database.end()
        except SQLAlchemyError as error:
            # Keep the next offsets last read: they cannot move while the database is down, or the table is locked.
            for gauge in _GAUGES:
                gauge.forget()
            if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) is not None:
                self._database.end()
            elif isinstance(error, OperationalError):
                self._database.error = str(error.orig)
                outages.DATABASE.missed("observer", str(error.orig))
            log.warning("observer_waits", error=type(error).__name__, detail=str(error))

    def _show(self) -> None:
        metrics.LAG.show(
            {
                (source.topic, str(source.partition)): float(max(0, end - self._handled[source]))
                for source, end in self._ends.items()
                if source in self._handled and self._ours(source)
            }
        )
