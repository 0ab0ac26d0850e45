"""Puts the order service together."""

from services.order.handlers import service
from services.order.settings import OrderSettings
from shared.container import ServiceContainer, containers, providers


@containers.copy(ServiceContainer)
class OrderContainer(ServiceContainer):
    settings_class = providers.Object(OrderSettings)
    service = providers.Object(service)
    routes = providers.Object("services.order.api:router")
