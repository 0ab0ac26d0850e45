"""Puts the payment service together."""

from services.payment.handlers import service
from shared.container import ServiceContainer, containers, providers


@containers.copy(ServiceContainer)
class PaymentContainer(ServiceContainer):
    service = providers.Object(service)
    routes = providers.Object("services.payment.api:router")
