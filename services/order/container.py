"""Puts the order service together."""

from dependency_injector import containers, providers

from services.order.handlers import SERVICE
from shared.container import ServiceContainer, lazily


@containers.copy(ServiceContainer)
class OrderContainer(ServiceContainer):
    """The order service."""

    service = providers.Object(SERVICE)
    application = providers.Singleton(
        lazily,
        ".http.api:make_application",
        routes="services.order.api:router",
        service=service,
        settings=ServiceContainer.settings,
        engine=ServiceContainer.engine,
        outbox=ServiceContainer.outbox,
        requests=ServiceContainer.requests,
    )
