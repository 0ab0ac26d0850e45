"""Puts the skeleton service together."""

from dependency_injector import containers, providers

from dev.service.skeleton.service.handlers import SERVICE
from shared.container import ServiceContainer, lazily


@containers.copy(ServiceContainer)
class SkeletonContainer(ServiceContainer):
    """The skeleton service."""

    service = providers.Object(SERVICE)
    application = providers.Singleton(
        lazily,
        ".http.api:make_application",
        routes="dev.service.skeleton.service.api:router",
        service=service,
        settings=ServiceContainer.settings,
        engine=ServiceContainer.engine,
        outbox=ServiceContainer.outbox,
        requests=ServiceContainer.requests,
    )
