"""Assembles a process. A service copies this container and adds its own parts; only `shared.command` opens it."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from . import lean

with lean.loading():
    from dependency_injector import containers, providers
    from sqlalchemy import Engine

    from . import settings
    from .calls.declaration import Call
    from .calls.outbox import CallingOutbox
    from .errors import Misconfigured
    from .kafka import topics
    from .kafka.client import KafkaClient
    from .postgres import engine as postgres_engine
    from .postgres.pools import POOLS
    from .postgres.recurring import Recurring
    from .postgres.wakeup import Wakeup
    from .service import Service
    from .worker import startup
    from .worker.housekeeping import Housekeeping
    from .worker.measured import MeasuredDatabase, MeasuredMember, MeasuredProducer
    from .worker.observer import Observer
    from .worker.worker import Worker

API_CONNECTIONS = 10
"""Connections of an API process, and the number of requests it handles concurrently."""
WORKER_CONNECTIONS = 6
"""Maximum, one for each use, so that none waits for another: the slot and its batches, the wake-up, housekeeping, the
observer, the topic watch, and the checks before a stop."""
ASIDE_CONNECTIONS = 2
"""Opened only to cancel a statement of a slow handler, and to note at which record a process ends."""

CALLER_CONNECTIONS = 6
"""One for each of its threads (`THREADS` of `calls.caller`), and one that listens."""

_NO_TRACES = "OTEL_TRACES_EXPORTER needs OpenTelemetry: install the library's extra `traces`, or leave it at `none`"

_APPLICATION = ".http.api:make_application"


def resolve(target: str) -> Any:
    """Import the module of `module:name`, and return the named object. A module that begins with a dot belongs to this
    library, under any package name.
    """
    module, _, name = target.partition(":")
    return getattr(import_module(module, __package__), name)


def lazily(target: str, *given: Any, **arguments: Any) -> Any:
    """Import `module:name` only now, and call it, so that a worker imports neither FastAPI nor alembic."""
    return resolve(target)(*given, **arguments)


def _connect(pool: str, **given: Any) -> Engine:
    return POOLS.watch(pool, postgres_engine.connect(**given))


def _check(engine: Any, settings: settings.Settings, service: Service) -> None:
    topics.check_libraries()
    startup.check_database(engine, service)
    postgres_engine.refuse_transaction_pooler(engine)
    startup.check_topics(engine, settings, service)
    Recurring(service).ensure(engine)


def _traces(settings: settings.Settings, service: Service, engine: Callable[[], Engine]) -> Any:
    """Return what makes spans; None without them, and then nothing of OpenTelemetry is imported."""
    if settings.otel_traces_exporter == "none":
        return None
    try:
        return lazily(".tracing.starting:start", settings, service, engine())
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise Misconfigured(_NO_TRACES) from error


def _kafka(slot: int, member: Any, producer: Any, traces: Any) -> KafkaClient:
    halves = member(slot=slot), producer(slot=slot)
    return KafkaClient(*halves) if traces is None else lazily(".tracing.worker:TracedKafka", traces, *halves)


def _worker_database(traces: Any, **given: Any) -> MeasuredDatabase:
    return MeasuredDatabase(**given) if traces is None else lazily(".tracing.worker:TracedDatabase", traces, **given)


def _caller(traces: Any, **given: Any) -> Any:
    if traces is not None:
        given["exchange"] = partial(resolve(".tracing.calls:TracedExchange"), traces)
    return lazily(".calls.caller:Caller", **given)


__all__ = ["ServiceContainer", "containers", "lazily", "providers", "resolve"]


class ServiceContainer(containers.DeclarativeContainer):
    """The parts of every service. A service sets `service`, and `routes` for its API."""

    def __init_subclass__(cls, **more: Any) -> None:
        """Refuse the old form. Raises `TypeError`."""
        super().__init_subclass__(**more)
        if getattr(cls.cls_providers.get("application"), "args", ())[:1] == (_APPLICATION,):
            package = cls.__module__.rpartition(".")[0]
            raise TypeError(
                f'{cls.__name__} sets `application`: write `routes = providers.Object("{package}.api:router")` '
                f"instead (docs/upgrading.md)"
            )

    settings_class: providers.Provider[type[settings.Settings]] = providers.Object(settings.Settings)
    """A service with additional settings sets its subclass here. (Not `settings`: a replacement there would be a
    different object from the one that the other providers hold.)"""
    settings = providers.Singleton(settings.load, settings_class)
    service: providers.Provider[Service] = providers.Dependency(instance_of=Service)
    calls: providers.Provider[tuple[type[Call], ...]] = providers.Object(())
    """A service that asks third parties sets the classes of its calls here, and runs callers."""

    engine = providers.Singleton(
        _connect,
        "api",
        settings=settings,
        service=service.provided.name,
        pool_size=providers.Object(API_CONNECTIONS),
    )
    worker_engine = providers.Singleton(
        _connect,
        "worker",
        settings=settings,
        service=service.provided.name,
        pool_size=providers.Object(WORKER_CONNECTIONS),
        debugging=settings.provided.debug_no_timeouts,
    )
    aside_engine = providers.Singleton(
        _connect,
        "aside",
        settings=settings,
        service=service.provided.name,
        pool_size=providers.Object(ASIDE_CONNECTIONS),
    )
    outbox = providers.Singleton(
        CallingOutbox, service=service, event_bytes_max=settings.provided.event_bytes_max, calls=calls
    )
    requests = providers.Singleton(postgres_engine.Requests, engine=engine, outbox=outbox)

    member = providers.Factory(MeasuredMember, settings=settings, service=service)
    producer = providers.Factory(MeasuredProducer, settings=settings, service=service)
    traces = providers.Singleton(_traces, settings=settings, service=service, engine=engine.provider)
    kafka = providers.Factory(_kafka, member=member.provider, producer=producer.provider, traces=traces)
    worker_database = providers.Singleton(
        _worker_database,
        traces=traces,
        engine=worker_engine,
        aside=aside_engine,
        service=service,
        outbox=outbox,
        slots_max=settings.provided.worker_slots,
        claim_bytes=settings.provided.claim_bytes,
        handler_seconds_max=settings.provided.handler_seconds,
        retry_seconds_max=settings.provided.retry_seconds_max,
    )
    wakeup = providers.Singleton(Wakeup, engine=worker_engine, outbox=outbox)
    housekeeping = providers.Singleton(Housekeeping, engine=worker_engine, settings=settings)
    observer = providers.Singleton(Observer, engine=worker_engine, settings=settings, service=service)
    check = providers.Callable(_check, engine=worker_engine, settings=settings, service=service)
    look_at_topics = providers.Callable(
        startup.look_at_topics, engine=worker_engine, settings=settings, service=service
    )
    stands = providers.Callable(
        lazily, ".operations.diagnosis:stands", engine=worker_engine, settings=settings, service=service
    )
    worker = providers.Singleton(
        Worker,
        settings=settings,
        service=service,
        database=worker_database,
        check=check.provider,
        look_at_topics=look_at_topics.provider,
        stands=stands.provider,
        connect=kafka.provider,
        wakeup=wakeup,
        housekeeping=housekeeping,
        observer=observer,
    )
    caller_engine = providers.Singleton(
        _connect,
        "caller",
        settings=settings,
        service=service.provided.name,
        pool_size=providers.Object(CALLER_CONNECTIONS),
    )
    check_caller = providers.Callable(startup.check_database, caller_engine, service)
    caller = providers.Singleton(
        _caller,
        traces=traces,
        settings=settings,
        service=service,
        engine=caller_engine,
        outbox=outbox,
        check=check_caller.provider,
    )
    routes: providers.Provider[str] = providers.Dependency(instance_of=str)
    """The `module:name` of the service's router, which only an API imports."""
    application = providers.Singleton(
        lazily,
        _APPLICATION,
        routes=routes,
        service=service,
        settings=settings,
        engine=engine,
        outbox=outbox,
        requests=requests,
        traces=traces,
    )


def container_in(package: str) -> Any:
    """Import the container of the service in a package. That is the service's own code, which may raise anything."""
    module = import_module(f"{package}.container")
    kinds = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, ServiceContainer) and kind.__module__ == module.__name__
    ]
    if len(kinds) != 1:
        raise Misconfigured(f"{module.__name__} has {len(kinds)} containers of a service, and should have one")
    return kinds[0]()
