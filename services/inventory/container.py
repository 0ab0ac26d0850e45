"""Puts the inventory service together."""

from dependency_injector import containers, providers

from services.inventory.handlers import SERVICE
from shared.container import ServiceContainer, lazily


@containers.copy(ServiceContainer)
class InventoryContainer(ServiceContainer):
    """The inventory service."""

    service = providers.Object(SERVICE)
    application = providers.Singleton(
        lazily,
        ".http.api:make_application",
        routes="services.inventory.api:router",
        service=service,
        settings=ServiceContainer.settings,
        engine=ServiceContainer.engine,
        outbox=ServiceContainer.outbox,
        requests=ServiceContainer.requests,
    )
