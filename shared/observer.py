"""What is true whether the worker works or not, seen from beside it: how far behind the service is, whether Kafka
answers, and who holds its topics back. A thread with a client of its own, which is in no group and changes nothing.
"""

import threading
import time
from collections.abc import Collection

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from shared import backlog, dead_letters, logs, outages, telemetry
from shared.handling import Service
from shared.held_back import HELD_SECONDS, Held, ask
from shared.logs import log
from shared.ports import Input
from shared.settings import Settings

LOOK_SECONDS = 3.0
"""How often it looks. Each look asks Kafka three questions and PostgreSQL two, which take milliseconds."""

ANSWER_SECONDS = 4.0
"""For one question to Kafka."""

SILENT_SECONDS = 10.0
"""A Kafka that has given no answer for so long is away: two looks, and time for a busy machine."""

_HANDLED = text("SELECT topic, partition, next_offset FROM position WHERE topic = ANY(:topics)")


class Observer:
    """Shows `records_lag`, `records_held_back_seconds`, `outbox_*` and whether Kafka answers, until it is stopped."""

    def __init__(self, engine: Engine, settings: Settings, service: Service) -> None:
        self._engine = engine
        self._settings = settings
        self._service = service
        self._admin: AdminClient | None = None
        self._answered = time.monotonic()
        self._error = ""
        self._owned: frozenset[Input] = frozenset()
        self._ends: dict[Input, int] = {}
        self._handled: dict[Input, int] = {}
        self._held: dict[Input, Held] = {}
        self._asking: threading.Thread | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)

    def start(self) -> None:
        """Begin, if it has not begun yet."""
        if self._thread.ident is None:
            self.heard()
            self._thread.start()

    def stop(self) -> None:
        """End after the question that is under way."""
        self._stopping.set()

    def own(self, inputs: Collection[Input]) -> None:
        """Show the lag of these inputs from now on: others have the rest. Whoever owns none shows all: of a service
        that stands still nobody owns anything.
        """
        self._owned = frozenset(inputs)

    def heard(self) -> None:
        """Note that Kafka has just answered this process."""
        self._answered, self._error = time.monotonic(), ""
        outages.KAFKA.answered("observer")

    def silence(self) -> str:
        """Say since when Kafka gives no answer; empty while it does."""
        seconds = time.monotonic() - self._answered
        if seconds <= SILENT_SECONDS:
            return ""
        words = f"Kafka has not answered for {seconds:.0f} s"
        outages.KAFKA.missed("observer", f"{words}; {self._error}" if self._error else words, for_seconds=seconds)
        return words

    def held_back(self) -> str:
        """Say which of the inputs owned are held back, and by whom; empty if none is."""
        found = sorted(dict(self._held).items())
        return "; ".join(str(held) for source, held in found if held.told and self._ours(source))

    def _ours(self, source: Input) -> bool:
        return not self._owned or source in self._owned

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except Exception:  # noqa: BLE001 - whatever it is, the next look may do
                log.exception("observer_failed")
                self._admin = None
            self._stopping.wait(LOOK_SECONDS)

    def look(self) -> None:
        """Look once. Kafka comes first: what is handled meanwhile must not count as lag."""
        self._see_kafka()
        self._show()
        self._see_database()
        self._show()

    # ---- Kafka

    def _see_kafka(self) -> None:
        self._ends = {}
        try:
            if self._admin is None:
                self._admin = AdminClient(
                    {**self._settings.kafka(), "client.id": f"{self._service.name}-observer"},
                    logger=logs.of_client(f"{self._service.name}.observer"),
                )
            self._admin.poll(0)  # serves the log
            inputs = self._inputs(self._admin)
            self.heard()
            stable = self._offsets(self._admin, inputs, IsolationLevel.READ_COMMITTED)
            self._ends = self._offsets(self._admin, inputs, IsolationLevel.READ_UNCOMMITTED)
        except (KafkaException, TimeoutError) as error:
            # Another one next time: an old client may know leaders only that are gone.
            self._admin = None
            self._error = str(error)
            self.silence()
            return
        # The ends are read last: what a transaction wrote and ended meanwhile is seen as held back, at one look.
        self._see_held({source: at for source, at in stable.items() if at < self._ends.get(source, at)})

    def _inputs(self, admin: AdminClient) -> list[Input]:
        found = []
        topics = TopicCollection(sorted(self._service.hears))
        for name, answer in admin.describe_topics(topics, request_timeout=ANSWER_SECONDS).items():
            try:
                found += [Input(name, n) for n in range(len(answer.result(2 * ANSWER_SECONDS).partitions))]
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:  # a topic that is gone is an answer
                    raise
        return found

    def _offsets(self, admin: AdminClient, inputs: Collection[Input], level: IsolationLevel) -> dict[Input, int]:
        """Give the ends of those inputs whose leader tells it."""
        asked = {TopicPartition(*source): OffsetSpec.latest() for source in inputs}  # type: ignore[no-untyped-call]
        found = {}
        answers = admin.list_offsets(asked, isolation_level=level, request_timeout=ANSWER_SECONDS) if asked else {}
        for p, answer in answers.items():
            try:
                found[Input(p.topic, p.partition)] = int(answer.result(2 * ANSWER_SECONDS).offset)
            except (KafkaException, TimeoutError):
                self._admin = None
        # When a leader does not answer, the client gives a negative offset instead of an error.
        return {source: offset for source, offset in found.items() if offset >= 0}

    def _see_held(self, stable: dict[Input, int]) -> None:
        for source in [source for source, found in self._held.items() if stable.get(source) != found.offset]:
            gone = self._held.pop(source)
            if gone.told:
                log.warning("held_back_ended", source=str(source), offset=gone.offset, seconds=round(gone.seconds()))
        for source, offset in stable.items():
            self._held.setdefault(source, Held(source, offset))
        self._ask_who_holds()
        self._tell_who_holds()

    def _ask_who_holds(self) -> None:
        """Ask on a thread of its own: brokers that do not answer must not keep the next look waiting."""
        due = [found for found in self._held.values() if not found.asked and found.seconds() > HELD_SECONDS]
        if due and (self._asking is None or not self._asking.is_alive()):
            arguments = (self._settings, self._service.name, due)
            self._asking = threading.Thread(target=ask, args=arguments, name="held back", daemon=True)
            self._asking.start()

    def _tell_who_holds(self) -> None:
        for source, found in self._held.items():
            if found.asked and not found.told:
                found.told = True
                log.warning(
                    "held_back",
                    source=str(source),
                    offset=found.offset,
                    transactional_id=found.holder.transactional_id or None,
                    producer_id=found.holder.producer_id,
                    detail=str(found),
                )
        telemetry.HELD.show(
            {
                (source.topic, str(source.partition)): self._held[source].seconds() if source in self._held else 0.0
                for source in self._ends
            }
        )
        telemetry.HOLDERS.show(
            {
                (source.topic, str(source.partition), found.holder.transactional_id or "unknown"): 1.0
                for source, found in self._held.items()
                if found.told
            }
        )

    # ---- PostgreSQL

    def _see_database(self) -> None:
        try:
            with self._engine.connect() as connection:
                outages.DATABASE.answered("observer")
                with connection.begin():
                    rows = connection.execute(_HANDLED, {"topics": list(self._service.hears)}).all()
                self._handled = {Input(topic, partition): offset for topic, partition, offset in rows}
                with connection.begin():
                    backlog.look(connection)
                    dead_letters.look(connection)
        except SQLAlchemyError as error:
            # H stays as it was last: nobody moves it while the database is away, or the table locked.
            backlog.ROWS.forget()
            backlog.OLDEST.forget()
            dead_letters.WAITING.forget()
            dead_letters.OLDEST.forget()
            if isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) is None:
                outages.DATABASE.missed("observer", str(error.orig))
            log.warning("observer_waits", error=type(error).__name__, detail=str(error))

    def _show(self) -> None:
        telemetry.LAG.show(
            {
                (source.topic, str(source.partition)): float(max(0, end - self._handled[source]))
                for source, end in self._ends.items()
                if source in self._handled and self._ours(source)
            }
        )
