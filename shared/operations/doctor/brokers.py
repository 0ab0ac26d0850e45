"""Kafka's brokers: the way there, who leads, what is replicated, what they allow, and what is left of their disks."""

from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._metadata import ClusterMetadata
from confluent_kafka.admin._resource import ResourceType

from ...errors import KafkaUnavailable, Misconfigured
from ...kafka import access, open_transactions
from ...kafka.topics import needed
from ...settings import Settings
from . import network
from .case import Case
from .certificates import expiring, handshake, identity
from .findings import Finding, fault, ok, unknown, warning
from .network import Address
from .sections import BROKERS_AWAY, KAFKA_USER, POLICIES, SETTINGS, SIZES

ANSWER_SECONDS = 5.0
"""For one request; a broker takes milliseconds."""

OWN_TOPICS = ("__consumer_offsets", "__transaction_state")
"""Of the brokers: committed offsets, and transactions. Who may not see them is not shown them."""

OFFSETS_MINUTES = 7 * 24 * 60
"""`offsets.retention.minutes`, as brokers have it by default."""

BEHIND_MS = 30_000
"""A controller follows within a second; one that starts again takes some."""

SILENT = (
    "the brokers take connections and do not answer: are they frozen, overloaded or just starting? If they work, they "
    "may expect another KAFKA_SECURITY_PROTOCOL"
)

FULL, NEARLY_FULL = 0.95, 0.85
"""Shares of a disk. A broker whose disk is full ends."""


def address(case: Case) -> Iterator[Finding]:
    """Whether KAFKA_BOOTSTRAP_SERVERS resolve, and take connections."""
    yield network.reached("KAFKA_BOOTSTRAP_SERVERS", network.of_kafka(case.settings), "the brokers")


def connection(case: Case) -> Iterator[Finding]:
    """Whether we are let in, by brokers that are new enough."""
    try:
        case.admin = access.admin(case.settings, case.service)
        case.cluster = case.admin.list_topics(timeout=ANSWER_SECONDS)
    except Misconfigured as error:
        yield fault(str(error), "correct KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_* and KAFKA_SSL_*", KAFKA_USER)
        return
    except KafkaUnavailable as error:
        yield fault(str(error), SILENT, BROKERS_AWAY)
        return
    except KafkaException as error:
        yield fault(f"no broker names the others: {error.args[0].str()}", SILENT, BROKERS_AWAY)
        return
    found = case.cluster
    who = f", as user {case.settings.kafka_sasl_username}" if case.settings.kafka_sasl_username else ""
    yield ok(f"cluster {found.cluster_id}, brokers {sorted(found.brokers)}, Kafka 4.0 or newer{who}")


def quorum(case: Case) -> Iterator[Finding]:
    """Who leads the controllers, and who of them follows. A list of topics does not tell: what a broker names there as
    the controller is a random broker that is alive (KIP-590, KAFKA-17404).
    """
    try:
        with open_transactions.client(case.settings, f"{case.service.name}-doctor") as admin:
            found = admin.describe_metadata_quorum()["topics"][0]["partitions"][0]
    except Exception as error:  # noqa: BLE001 - kafka-python's, which names what is missing
        yield unknown(
            f"not known: {type(error).__name__}: {error}"[: open_transactions.DETAIL_MAX],
            "grant DESCRIBE on the cluster, or look with `kafka-metadata-quorum.sh describe --status`; a worker needs "
            "no such right",
            BROKERS_AWAY,
        )
        return
    yield led(found)


def led(found: Mapping[str, Any]) -> Finding:
    """Judge the quorum of the controllers, as its leader describes it."""
    voters = {int(voter["replica_id"]): int(voter["last_caught_up_timestamp"]) for voter in found["current_voters"]}
    leader = int(found["leader_id"])
    if leader < 0:
        return fault(
            "no controller leads: nobody elects leaders, and no topic can be made",
            "bring a majority of the controllers back",
            BROKERS_AWAY,
        )
    seen = f"controller {leader} leads, of {sorted(voters)}"
    now = voters.get(leader, 0)
    away = [voter for voter, at in sorted(voters.items()) if now - at > BEHIND_MS]
    if away:
        return warning(
            f"{seen}; {', '.join(map(str, away))} does not follow",
            "look at that controller: is it up, is its disk full or slow? Without a majority no leader is elected",
            BROKERS_AWAY,
        )
    return ok(seen)


def listeners(case: Case) -> Iterator[Finding]:
    """Whether the brokers can be reached under the names that they give to clients."""
    brokers = {
        Address(str(broker.host), int(broker.port)): number for number, broker in sorted(case.cluster.brokers.items())
    }
    found = network.all_unreachable(list(brokers))
    away = [f"broker {brokers[place]} at {place}: {problem}" for place, problem in sorted(found.items()) if problem]
    if away:
        yield fault(
            f"the brokers name these addresses to clients, and from here they cannot be reached: {'; '.join(away)}",
            "correct advertised.listeners of the brokers, or make the names resolve and the ports reachable from here",
        )
    else:
        yield ok(f"{', '.join(map(str, sorted(found)))} takes connections")


def certificates(case: Case) -> Iterator[Finding]:
    """Whether the brokers' certificates are accepted, and until when they are valid."""
    if "SSL" not in case.settings.kafka_security_protocol:
        yield ok(f"no TLS with KAFKA_SECURITY_PROTOCOL={case.settings.kafka_security_protocol}")
        return
    mend = (
        "KAFKA_SSL_CA_LOCATION must name the CA of the brokers, and their certificates the names by which clients come"
    )
    for place in network.of_kafka(case.settings):
        try:
            shown = handshake(place, case.settings.kafka_ssl_ca_location, identity(case.settings))
        except TimeoutError:
            yield unknown(f"{place} does not answer a TLS handshake", "is it a TLS listener, and is the broker well?")
            continue
        except OSError as error:
            yield fault(f"{place} makes no TLS connection: {error}", f"is that a TLS listener? {mend}", KAFKA_USER)
            continue
        if shown.refusal is not None:
            # Without a CA of ours, librdkafka may know other authorities than Python does.
            judge = warning if case.settings.kafka_ssl_ca_location is None else fault
            yield judge(f"the certificate of {place} is not accepted: {shown.refusal}", mend, KAFKA_USER)
        else:
            yield expiring(f"the certificate of {place}", shown.expires, "give the broker a new one")


def replication(case: Case) -> Iterator[Finding]:
    """Partitions without a leader, or with fewer replicas than they should have."""
    names = [*needed(case.service), *OWN_TOPICS]
    yield from replicated(case.cluster, [name for name in names if name in case.cluster.topics])


def replicated(cluster: ClusterMetadata, names: list[str]) -> Iterator[Finding]:
    """Judge the partitions of these topics."""
    offline, behind, single = [], [], []
    for name in names:
        for number, partition in sorted(cluster.topics[name].partitions.items()):
            if partition.leader < 0:
                offline.append(f"{name}[{number}]")
            if missing := sorted(set(partition.replicas) - set(partition.isrs)):
                behind.append(f"{name}[{number}] (broker {', '.join(map(str, missing))})")
        if any(len(partition.replicas) == 1 for partition in cluster.topics[name].partitions.values()):
            single.append(name)
    if offline:
        yield fault(
            f"offline, without a leader: {', '.join(offline)}", "bring back the brokers that have their replicas"
        )
    if behind:
        yield warning(
            f"under-replicated, replicas are missing or behind: {', '.join(behind)}",
            "look at these brokers: are they up, is a disk full or slow?",
        )
    if single:
        yield warning(
            f"one replica: with its disk goes what was acknowledged, of {', '.join(single)}",
            "in production take three brokers, REPLICATION_FACTOR=3 and min.insync.replicas=2; topics that are there "
            "get more replicas by kafka-reassign-partitions.sh",
            SIZES,
        )
    if not (offline or behind):
        yield ok(f"every partition of {len(names)} topics has its leader and its replicas")


def settings(case: Case) -> Iterator[Finding]:
    """What the brokers allow, against what this service asks for."""
    broker = min(case.cluster.brokers)
    resource = ConfigResource(ResourceType.BROKER, str(broker))
    answer = case.admin.describe_configs([resource], request_timeout=ANSWER_SECONDS)[resource]
    try:
        found = answer.result(2 * ANSWER_SECONDS)
    except KafkaException as error:
        yield not_shown(f"the settings of broker {broker}", error.args[0], "on the cluster")
        return
    yield from allowed({name: entry.value for name, entry in found.items()}, case.settings)


def allowed(found: Mapping[str, str | None], wanted: Settings) -> Iterator[Finding]:
    """Judge the settings of a broker."""
    yield from list(_bounds(found, wanted)) or [
        ok("the brokers allow TRANSACTION_TIMEOUT_MS and SESSION_TIMEOUT_MS, and keep committed offsets")
    ]


def _bounds(found: Mapping[str, str | None], wanted: Settings) -> Iterator[Finding]:
    longest = _number(found, "transaction.max.timeout.ms")
    if longest is not None and wanted.transaction_timeout_ms > longest:
        yield fault(
            f"TRANSACTION_TIMEOUT_MS={wanted.transaction_timeout_ms} is above the brokers' transaction.max.timeout.ms="
            f"{longest}: no worker gets a producer",
            "lower the first, or raise the second",
            SETTINGS,
        )
    least, most = _number(found, "group.min.session.timeout.ms"), _number(found, "group.max.session.timeout.ms")
    if wanted.group_protocol == "classic" and not (least or 0) <= wanted.session_timeout_ms <= (most or 2**31):
        yield fault(
            f"SESSION_TIMEOUT_MS={wanted.session_timeout_ms} is not within what the brokers allow, {least} to {most}: "
            "no worker gets into the group",
            "correct it, or group.min.session.timeout.ms and group.max.session.timeout.ms of the brokers",
        )
    kept = _number(found, "offsets.retention.minutes")
    if kept is not None and kept < OFFSETS_MINUTES:
        yield warning(
            f"offsets.retention.minutes={kept}: after {kept / 60:g} h without a worker comes PositionMissing",
            "raise it to the 7 days of the default, or more",
            SIZES,
        )
    if found.get("unclean.leader.election.enable") == "true":
        yield warning(
            "unclean.leader.election.enable=true: a replica that lagged may lead, and what was acknowledged is lost",
            "set it to false; after an election look at `positions show`",
            POLICIES,
        )


def _number(found: Mapping[str, str | None], name: str) -> int | None:
    value = found.get(name)
    return int(value) if value is not None and value.lstrip("-").isdecimal() else None


def not_shown(what: str, error: KafkaError, where: str) -> Finding:
    """Say why settings are not known."""
    if error.code() in (KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED):
        mend = f"grant this user DESCRIBE_CONFIGS {where}, or look with kafka-configs.sh; a worker needs no such right"
        return unknown(f"{what} are not shown to this user ({error.name()})", mend)
    return unknown(f"{what} were not answered: {error.name()}: {error.str()}", "run this again; is that broker up?")


def disk(case: Case) -> Iterator[Finding]:
    """How full the brokers' disks are."""
    try:
        with open_transactions.client(case.settings, f"{case.service.name}-doctor") as admin:
            found = admin.describe_log_dirs({case.service.lane_topic: [0]})
    except Exception as error:  # noqa: BLE001 - kafka-python's, which names what is missing
        yield unknown(
            f"not known: {type(error).__name__}: {error}"[: open_transactions.DETAIL_MAX], "`df` on the brokers"
        )
        return
    for broker in found:
        yield from disks(int(broker["broker"]), broker["log_dirs"])


def disks(broker: int, directories: list[Mapping[str, object]]) -> Iterator[Finding]:
    """Judge the disks of a broker."""
    if not directories:
        mend = "grant DESCRIBE on the cluster, or look with `df` on the broker; a worker needs no such right"
        yield unknown(f"broker {broker} does not show its disks to this user", mend)
    for directory in directories:
        name = f"broker {broker}, {open_transactions.plain(str(directory.get('log_dir')))}"
        total, usable = (int(str(directory.get(size, -1))) for size in ("total_bytes", "usable_bytes"))
        if directory.get("error_code"):
            yield fault(f"{name}: offline (error {directory['error_code']})", "mend that disk, and restart the broker")
        elif total <= 0 or usable < 0:
            yield unknown(f"{name}: its size is not told", "look with `df` on the broker")
        else:
            yield _filled(f"{name}: {usable / 1e9:.1f} of {total / 1e9:.1f} GB are free", 1 - usable / total)


def _filled(seen: str, share: float) -> Finding:
    mend = "make room, lower the retention of topics, or take a larger disk: a broker whose disk is full ends"
    if share >= FULL:
        return fault(seen, mend)
    return warning(seen, mend) if share >= NEARLY_FULL else ok(seen)
