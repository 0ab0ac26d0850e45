"""Puts the payment service together."""

from dependency_injector import containers, providers

from services.payment.handlers import SERVICE
from shared.container import ServiceContainer, lazily


@containers.copy(ServiceContainer)
class PaymentContainer(ServiceContainer):
    """The payment service."""

    service = providers.Object(SERVICE)
    application = providers.Singleton(
        lazily,
        ".http.api:make_application",
        routes="services.payment.api:router",
        service=service,
        settings=ServiceContainer.settings,
        engine=ServiceContainer.engine,
        outbox=ServiceContainer.outbox,
        requests=ServiceContainer.requests,
    )
