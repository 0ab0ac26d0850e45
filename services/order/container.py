"""Puts the order service together."""

from services.order.handlers import service
from shared.container import ServiceContainer, containers, providers


@containers.copy(ServiceContainer)
class OrderContainer(ServiceContainer):
    service = providers.Object(service)
    routes = providers.Object("services.order.api:router")
