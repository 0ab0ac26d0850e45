"""Puts the payment service together: what it is, and its HTTP API on top of what every service has."""

from typing import Any

from dependency_injector import containers, providers

from services.payment.handlers import SERVICE
from shared.container import ServiceContainer


def _application(**parts: Any) -> Any:
    # Imported only when it is built: a worker loads no web framework.
    from services.payment.api import router
    from shared.api import make_application

    return make_application(router=router, **parts)


@containers.copy(ServiceContainer)
class PaymentContainer(ServiceContainer):
    """The payment service."""

    service = providers.Object(SERVICE)
    application = providers.Singleton(
        _application,
        service=service,
        settings=ServiceContainer.settings,
        engine=ServiceContainer.engine,
        outbox=ServiceContainer.outbox,
        requests=ServiceContainer.requests,
    )
