"""Puts the inventory service together."""

from services.inventory.handlers import service
from shared.container import ServiceContainer, containers, providers


@containers.copy(ServiceContainer)
class InventoryContainer(ServiceContainer):
    service = providers.Object(service)
    routes = providers.Object("services.inventory.api:router")
