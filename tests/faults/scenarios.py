"""The faults: each scenario is one row of the matrix in docs/proof.md.

A scenario strikes one or more plays at once, for as long as it needs; a seed decides everything random. When it
returns, what it broke works again, so the play must come to rest by itself.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import psycopg

from dev.servers import Cluster, ClusterServers, Kafka, Servers
from tests.faults.play import Play
from tests.faults.stage import TIMEOUTS

SESSION, TRANSACTION = (milliseconds / 1_000 for milliseconds in TIMEOUTS.values())
BEYOND_ALL = SESSION + TRANSACTION + 1.5
"""Seconds after which a frozen worker has lost its partitions, its transaction, and its place; the broker looks for
transactions that are overdue once a second.
"""


class Arena(Enum):
    """The servers that a scenario needs."""

    SHARED = "one broker"
    """Servers that no scenario harms, so all of these share them."""
    BREAKABLE = "one broker that dies"
    CLUSTER = "three brokers"
    FORGETFUL = "one broker that forgets idle producers"


FORGETFUL = {
    # A producer id and a transactional id that were idle for so long are forgotten; 1 and 7 days by default.
    "producer.id.expiration.ms": "2000",
    "producer.id.expiration.check.interval.ms": "500",
    "transactional.id.expiration.ms": "2000",
    "transaction.remove.expired.transaction.cleanup.interval.ms": "500",
}


@dataclass
class Storm:
    """The plays that one scenario strikes, and the servers that they share."""

    servers: Servers | ClusterServers
    plays: Sequence[Play]
    random: random.Random

    @property
    def play(self) -> Play:
        """The only play of a scenario that strikes workers."""
        (play,) = self.plays
        return play

    def hit(self, fault: str) -> None:
        """Note that something shared by all plays was just broken."""
        for play in self.plays:
            play.hit(fault)

    def passes(self, seconds: float) -> None:
        """Let time pass for all plays."""
        time.sleep(seconds)


@dataclass(frozen=True)
class Scenario:
    """One row of the matrix."""

    name: str
    what: str
    must_hold: str
    strike: Callable[[Storm], None]
    arena: Arena = Arena.SHARED
    plays: int = 1
    workers: int = 2
    settings: dict[str, Any] = field(default_factory=dict)


def kills(storm: Storm) -> None:
    """Twenty SIGKILLs, 0.05 to 1 s apart."""
    play = storm.play
    for _ in range(20):
        play.passes(play.random.uniform(0.05, 1.0))
        play.kill(play.random.choice(play.standing()))


def freezes(storm: Storm) -> None:
    """Worker after worker freezes for longer than every timeout, wakes, and goes on with what it held."""
    play = storm.play
    for _ in range(2):
        first, second = play.random.sample(play.standing(), 2)
        with play.frozen(first):
            play.passes(play.random.uniform(0.2, 1.5))
            with play.frozen(second):
                play.passes(play.random.uniform(BEYOND_ALL, BEYOND_ALL + 2))
        play.passes(play.random.uniform(1.0, 3.0))


def blinks(storm: Storm) -> None:
    """Workers freeze for about as long as a session lasts: some lose their partitions, some do not."""
    play = storm.play
    for _ in range(10):
        with play.frozen(play.random.choice(play.standing())):
            play.passes(play.random.uniform(0.5 * SESSION, 2 * SESSION))
        play.passes(play.random.uniform(0.1, 1.0))


def twins(storm: Storm) -> None:
    """A worker stands still, its database session is ended, and another process takes its slot: two processes with one
    transactional.id and one group.instance.id, once the first wakes.
    """
    play = storm.play
    for _ in range(2):
        sleeper = play.random.choice(play.standing())
        with play.frozen(sleeper):
            for pid in play.sessions():
                # All of them: those of the others who stand take their own slots again at once, as a server that
                # was away makes them do.
                play.stage.connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
            play.hit("session ended")
            twin = play.stage.worker()
            play.passes(play.random.uniform(2.0, 4.0))
        play.passes(2.0)
        play.stage.dismiss(twin)


def comings_and_goings(storm: Storm) -> None:
    """Workers join, leave in order, and die: few batches are published in the generation that read them."""
    play = storm.play
    for _ in range(12):
        play.passes(play.random.uniform(0.1, 1.2))
        standing = play.standing()
        if len(standing) < 2 or (len(standing) < 4 and play.random.random() < 0.5):
            play.stage.worker()
            play.hit("joined")
        elif play.random.random() < 0.3:
            play.kill(play.random.choice(standing))
        else:
            play.stage.dismiss(play.random.choice(standing))
            play.hit("left")


def sessions_ended(storm: Storm) -> None:
    """The database ends workers' sessions at any moment."""
    play = storm.play
    for _ in range(15):
        play.passes(play.random.uniform(0.05, 0.8))
        sessions = play.sessions()
        if sessions:
            pid = play.random.choice(sessions)
            play.stage.connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
            play.hit("session ended")


def late_commits(storm: Storm) -> None:
    """Requests with low row ids commit long after higher ones were published; workers die meanwhile."""
    play, stage = storm.play, storm.play.stage
    for round_ in range(4):
        with stage.open_request([f"late-{round_}-{n}" for n in range(3)]):
            play.hit("slow transaction")
            play.passes(play.random.uniform(0.3, 1.5))
            play.kill(play.random.choice(play.standing()))
            play.passes(play.random.uniform(0.3, 1.5))


def contention(storm: Storm) -> None:
    """Another session locks the aggregates in the wrong order: deadlocks and lock waits; workers die."""
    play = storm.play
    keys = list(play.stage.keys)
    with closing(psycopg.connect(play.stage.servers.postgres.dsn(play.stage.name))) as rival:
        for _ in range(12):
            play.random.shuffle(keys)
            try:
                for key in keys:
                    rival.execute("SELECT FROM trail WHERE key = %s FOR UPDATE", (key,))
                    play.passes(play.random.uniform(0.0, 0.1))
                rival.commit()
            except psycopg.errors.DeadlockDetected:
                rival.rollback()
            play.hit("rival locks")
            if play.random.random() < 0.3:
                play.kill(play.random.choice(play.standing()))


def poison(storm: Storm) -> None:
    """Events that are refused, that make the handler fail, or that publish too much, among good ones; workers die."""
    play, stage = storm.play, storm.play.stage
    for number in range(10):
        wish = play.random.choice(["reject", "defect", "NUL", "reject with NUL", "publish 2000000"])
        stage.ask([play.random.choice(stage.keys)], wish=wish, poison=True)
        play.hit("poison")
        play.passes(play.random.uniform(0.05, 0.6))
        if number % 3 == 0:
            play.kill(play.random.choice(play.standing()))


def overload(storm: Storm) -> None:
    """Ten times the load arrives at once, several times; workers die while they catch up."""
    play, stage = storm.play, storm.play.stage
    for _ in range(3):
        for _ in range(100):
            stage.ask()
        play.hit("flood")
        for _ in range(2):
            play.passes(play.random.uniform(0.2, 1.0))
            play.kill(play.random.choice(play.standing()))


def slow_handlers(storm: Storm) -> None:
    """Handlers take longer than the session lasts and longer than a Kafka transaction may; workers die meanwhile."""
    play, stage = storm.play, storm.play.stage
    for seconds in (2 * SESSION, TRANSACTION + 1):
        with stage.gate_closed():
            stage.ask(stage.keys, wish="wait")
            play.hit("slow handler")
            play.passes(seconds)
            play.kill(play.random.choice(play.standing()))
        play.passes(play.random.uniform(0.5, 2.0))


def postgres_killed(storm: Storm) -> None:
    """PostgreSQL is killed, and replays its log when it comes back."""
    for _ in range(3):
        storm.passes(storm.random.uniform(0.5, 3.0))
        storm.servers.postgres.kill()
        storm.hit("PostgreSQL SIGKILL")
        storm.passes(storm.random.uniform(0.0, 2.0))
        storm.servers.postgres.start()
        _reconnect(storm)
        # Newcomers wait for that long, so that those who lived take their own slots again.
        storm.passes(6.0)


def postgres_restarted(storm: Storm) -> None:
    """PostgreSQL is restarted in an operator's two ways."""
    postgres = storm.servers.postgres
    for way in storm.random.sample(("fast", "immediate"), 2):
        storm.passes(storm.random.uniform(0.5, 3.0))
        postgres.restart(way)  # type: ignore[arg-type]
        storm.hit(f"PostgreSQL {way} restart")
        _reconnect(storm)
        storm.passes(6.0)


def _reconnect(storm: Storm) -> None:
    for play in storm.plays:
        play.stage.reconnect()


def kafka_killed(storm: Storm) -> None:
    """The only broker is killed, and comes back with its data; workers die while it is away."""
    kafka = storm.servers.kafka
    for _ in range(2):
        storm.passes(storm.random.uniform(0.5, 3.0))
        kafka.kill()
        storm.hit("broker SIGKILL")
        storm.passes(storm.random.uniform(0.0, 3.0))
        for play in storm.plays[::2]:
            play.kill(play.random.choice(play.standing()))
        kafka.start()
        storm.passes(storm.random.uniform(3.0, 6.0))


def _brokers(storm: Storm) -> Cluster:
    assert isinstance(storm.servers, ClusterServers)
    return storm.servers.kafka


@contextmanager
def _gone(storm: Storm, broker: Kafka) -> Iterator[None]:
    """Kill a broker for the length of the block; its name vanishes too, as a container's or a pod's does."""
    cluster = _brokers(storm)
    name = cluster.names[cluster.brokers.index(broker)]
    for play in storm.plays:
        if play.names:
            play.names.forget(name)
    broker.kill()
    storm.hit("broker SIGKILL")
    yield
    for play in storm.plays:
        if play.names:
            play.names.know(*cluster.names)
    broker.start()
    cluster.until_whole()


def brokers_killed(storm: Storm) -> None:
    """One broker after the other is killed and comes back: leaders, the group's coordinator and that of the
    transactions move, also in the middle of a commit.
    """
    brokers = list(_brokers(storm).brokers)
    storm.random.shuffle(brokers)
    for broker in brokers:
        storm.passes(storm.random.uniform(0.5, 3.0))
        with _gone(storm, broker):
            storm.passes(storm.random.uniform(2.0, 6.0))


def brokers_frozen(storm: Storm) -> None:
    """One broker after the other freezes, as in a long garbage collection: it still believes it leads what others lead
    by now.
    """
    brokers = list(_brokers(storm).brokers)
    storm.random.shuffle(brokers)
    for broker, (least, most) in zip(brokers, ((1.0, 2.0), (3.0, 6.0), (8.0, 12.0)), strict=True):
        storm.passes(storm.random.uniform(0.5, 2.0))
        broker.freeze()
        storm.hit("broker SIGSTOP")
        storm.passes(storm.random.uniform(least, most))
        broker.thaw()
        _brokers(storm).until_whole()


def brokers_and_workers(storm: Storm) -> None:
    """A broker dies; while its work moves, workers die too."""
    for broker in storm.random.sample(_brokers(storm).brokers, 2):
        storm.passes(storm.random.uniform(0.5, 2.0))
        with _gone(storm, broker):
            for play in storm.plays:
                play.passes(storm.random.uniform(0.0, 0.5))
                play.kill(play.random.choice(play.standing()))
            storm.passes(storm.random.uniform(2.0, 4.0))


def idle(storm: Storm) -> None:
    """The broker forgets the producers of a service that had nothing to publish for a while."""
    play, stage = storm.play, storm.play.stage
    for _ in range(2):
        with play.resting():
            stage.until_drained()
            play.passes(4.0)
            play.hit("idle beyond the expiration of producers")
        play.passes(2.0)


SOUND = "nothing is lost, twice, torn, or out of order"
LEAVING: dict[str, Any] = {"leave_group_on_shutdown": True}
COPIES: dict[str, Any] = {"replication_factor": 3}
BROKEN, CLUSTER, FORGETS = Arena.BREAKABLE, Arena.CLUSTER, Arena.FORGETFUL

SCENARIOS = (
    Scenario("kills", "workers are killed at random moments", SOUND, kills),
    Scenario(
        "freezes", "workers stand still beyond every timeout", "a zombie's work is never seen", freezes, workers=3
    ),
    Scenario("blinks", "workers stand still for about a session timeout", SOUND, blinks),
    Scenario("twins", "two processes with one transactional.id", "one of them is fenced", twins),
    Scenario("rebalances", "workers join, leave and die", SOUND, comings_and_goings, settings=LEAVING),
    Scenario(
        "rebalances-kip-848",
        "the same, with the new group protocol",
        SOUND,
        comings_and_goings,
        settings=LEAVING | {"group_protocol": "consumer"},
    ),
    Scenario("sessions", "PostgreSQL ends workers' sessions", SOUND, sessions_ended),
    Scenario("late-commits", "requests with low row ids commit late", "no row is passed over", late_commits),
    Scenario("contention", "deadlocks and long waits for locks", "batches are retried whole", contention),
    Scenario("poison", "records that cannot be handled", "each is set aside once", poison),
    Scenario("overload", "a hundred rounds of load at once", SOUND, overload),
    Scenario("slow-handlers", "handlers are slower than every timeout", SOUND, slow_handlers),
    Scenario("idle", "the broker forgets producers that were idle", SOUND, idle, FORGETS),
    Scenario("postgres-killed", "PostgreSQL is killed", "what was acknowledged is there", postgres_killed, BROKEN, 4),
    Scenario("postgres-restarted", "PostgreSQL is restarted", SOUND, postgres_restarted, BROKEN, 4),
    Scenario("kafka-killed", "the only broker is killed", SOUND, kafka_killed, BROKEN, 4),
    Scenario(
        "brokers-killed",
        "each of three brokers is killed",
        SOUND,
        brokers_killed,
        CLUSTER,
        4,
        settings=COPIES,
    ),
    Scenario(
        "brokers-frozen", "each of three brokers stands still", SOUND, brokers_frozen, CLUSTER, 4, settings=COPIES
    ),
    Scenario(
        "brokers-and-workers",
        "brokers and workers are killed",
        SOUND,
        brokers_and_workers,
        CLUSTER,
        4,
        settings=COPIES,
    ),
)
