"""The settings and the installed libraries: what no server is asked for."""

import platform
import ssl
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import confluent_kafka
import psycopg
from dependency_injector.errors import Error as DependencyError
from sqlalchemy import make_url

from ...errors import Misconfigured
from ...kafka.topics import check_libraries
from ...postgres.session_settings import libpq_variables
from . import network
from .case import Case
from .findings import Finding, fault, ok, warning
from .sections import CALLS, DEVELOPING, INSTALLING, KAFKA_USER, KEYS, MANAGED, ROLES, SETTINGS, SLOW_HANDLERS, TOKENS

LIBRARIES = ("confluent-kafka", "sqlalchemy", "psycopg", "pydantic-settings", "dependency-injector", "kafka-python")


def complete(case: Case) -> Iterator[Finding]:
    """Whether the settings can be read at all."""
    ignored = libpq_variables()
    try:
        hosts = network.of_postgres(case.settings.dsn(case.service.name))
        assert case.engine is not None  # its URL is read
    except Misconfigured as error:
        # Several settings may be wrong, a line each.
        for line in [line for line in str(error).splitlines() if line.strip() and not line.endswith("):")]:
            yield fault(line.strip(), "correct it in the environment, `.env.local` or `.env`", SETTINGS)
        return
    servers = case.settings.kafka_bootstrap_servers
    yield ok(f"Kafka at {servers}, PostgreSQL at {', '.join(map(str, hosts)) or 'the place that libpq chooses'}")
    if ignored:
        mend = "take them out, or put what they are for into DATABASE_URL"
        yield warning(f"ignored, since only DATABASE_URL counts: {', '.join(ignored)}", mend, MANAGED)


def safety(case: Case) -> Iterator[Finding]:
    """Settings with which others may read along, or do what they should not."""
    yield from list(_unsafe(case)) or [ok("nothing of it is unsafe")]


def _unsafe(case: Case) -> Iterator[Finding]:
    settings = case.settings
    away = [str(address) for address in network.of_kafka(settings) if not address.is_here]
    if away and "SSL" not in settings.kafka_security_protocol:
        what = "events and the password" if "SASL" in settings.kafka_security_protocol else "events"
        yield warning(
            f"KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol}: {what} go to {', '.join(away)} in the clear",
            "set SASL_SSL or SSL, and KAFKA_SSL_CA_LOCATION",
            KAFKA_USER,
        )
    url = make_url(settings.dsn(case.service.name))
    away = [str(address) for address in network.of_postgres(settings.dsn(case.service.name)) if not address.is_here]
    mode = str(url.query.get("sslmode", "prefer"))
    if away and mode != "verify-full":
        yield warning(
            f"DATABASE_URL: with sslmode={mode} a session to {', '.join(away)} may be with any server that answers",
            "add ?sslmode=verify-full&sslrootcert=/path/to/ca.pem to it",
            ROLES,
        )
    if settings.api_auth == "off":
        yield warning(
            f"API_AUTH=off: whoever reaches {settings.http_host}:{settings.http_port} may do everything",
            "set API_AUTH=on and API_TOKENS, unless a gateway decides",
            TOKENS,
        )
    if settings.debug_no_timeouts:
        yield warning(
            "DEBUG_NO_TIMEOUTS is on: nothing ends a worker that is stuck, and it is never ready",
            "take it out where nobody debugs",
            DEVELOPING,
        )


def agreement(case: Case) -> Iterator[Finding]:
    """Settings of which one takes away what another one promises."""
    settings, name = case.settings, case.service.name
    found = list(_disagreements(case))
    if settings.migration_database_url:
        runs, migrates = make_url(settings.dsn(name)), make_url(settings.migration_dsn(name))
        if runs.database != migrates.database:
            found.append(
                fault(
                    f"DATABASE_URL leads to database {runs.database}, MIGRATION_DATABASE_URL to {migrates.database}",
                    "let both name the same database",
                    ROLES,
                )
            )
    if settings.api_auth == "on":
        found += _tokens(case)
    yield from found or [ok("they agree with each other")]


def _disagreements(case: Case) -> Iterator[Finding]:
    settings = case.settings
    if settings.handler_seconds < settings.handler_seconds_max:
        yield warning(
            f"HANDLER_SECONDS_MAX={settings.handler_seconds_max:g} is more than TRANSACTION_TIMEOUT_MS allows: "
            f"handlers get {settings.handler_seconds:g} s",
            "raise TRANSACTION_TIMEOUT_MS, or lower HANDLER_SECONDS_MAX",
            SLOW_HANDLERS,
        )
    if settings.parked_hours_max >= settings.inbox_retention_hours:
        yield warning(
            f"PARKED_HOURS_MAX={settings.parked_hours_max:g} is not below INBOX_RETENTION_HOURS="
            f"{settings.inbox_retention_hours:g}: what comes again while a record is parked may take effect twice",
            "keep it well below",
            KEYS,
        )
    if settings.retry_seconds_max >= settings.parked_hours_max * 3_600:
        yield warning(
            f"RETRY_SECONDS_MAX={settings.retry_seconds_max:g} is longer than PARKED_HOURS_MAX: no record is "
            "tried twice before its partition waits",
            "lower RETRY_SECONDS_MAX",
            KEYS,
        )
    if settings.group_protocol == "consumer":
        yield warning(
            "GROUP_PROTOCOL=consumer is experimental here, and SESSION_TIMEOUT_MS has no effect with it",
            "set it to classic",
            SETTINGS,
        )


def _tokens(case: Case) -> list[Finding]:
    """Say whether an API would start. Another process of the service needs no tokens."""
    if find_spec("fastapi") is None:
        return []
    from ...http.tokens import Callers

    try:
        Callers(case.settings, case.service.name)
    except Misconfigured as error:
        mend = "nothing, if no API runs with these settings; otherwise mend it"
        return [warning(str(error), mend, TOKENS)]
    return []


def libraries(case: Case) -> Iterator[Finding]:
    """The clients, and what the service needs besides."""
    try:
        check_libraries()
    except Misconfigured as error:
        yield fault(str(error), "install the versions of requirements.lock")
    missing = []
    if _has_api(case) and find_spec("fastapi") is None:
        missing.append("api")
    if case.container.calls() and find_spec("aiohttp") is None:
        missing.append("calls")
    if missing:
        extras = ", ".join(missing)
        yield warning(
            f"not installed here: the extra{'s' if len(missing) > 1 else ''} {extras}",
            f"install exactly-once[{','.join(missing)}] where an API or a caller runs",
            INSTALLING,
        )
    versions = ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)
    libpq = psycopg.pq.version()
    yield ok(
        f"Python {platform.python_version()}, {versions}; librdkafka {confluent_kafka.libversion()[0]}, libpq "
        f"{libpq // 10_000}.{libpq % 10_000}, {ssl.OPENSSL_VERSION}"
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # vendored
        return "of unknown version"


def _has_api(case: Case) -> bool:
    try:
        return bool(case.container.routes())
    except DependencyError:  # the service sets none
        return False


def destinations(case: Case) -> Iterator[Finding]:
    """The third parties that a caller asks: whether they are in reach."""
    urls: dict[str, str] = {}
    for kind in case.container.calls():
        urls[kind.destination.name] = str(kind.destination.url(case.settings))
    if not urls:
        yield ok("this service calls no third party")
        return
    places = {name: network.of_url(url) for name, url in urls.items()}
    answers = network.all_unreachable([place for place in places.values() if place is not None])
    mend = "calls wait until they are given up; correct the setting of its URL, or bring it back"
    for name, place in sorted(places.items()):
        if place is None:
            yield fault(f"{name}: its URL names no host, or is neither http nor https", mend, CALLS)
        elif problem := answers[place]:
            yield warning(f"{name} at {place}: {problem}", mend, CALLS)
        else:
            yield ok(f"{name} at {place} takes connections")
