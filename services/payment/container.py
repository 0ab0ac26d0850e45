"""Puts the payment service together."""

from services.payment.calls import CALLS
from services.payment.handlers import service
from services.payment.settings import PaymentSettings
from shared.container import ServiceContainer, containers, providers


@containers.copy(ServiceContainer)
class PaymentContainer(ServiceContainer):
    settings_class = providers.Object(PaymentSettings)
    service = providers.Object(service)
    calls = providers.Object(CALLS)
    routes = providers.Object("services.payment.api:router")
