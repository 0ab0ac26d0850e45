"""Puts the order service together: what it is, and its HTTP API on top of what every service has."""

from typing import Any

from dependency_injector import containers, providers

from services.order.handlers import SERVICE
from shared.container import ServiceContainer


def _application(**parts: Any) -> Any:
    # Imported only when it is built: a worker loads no web framework.
    from services.order.api import router
    from shared.api import make_application

    return make_application(router=router, **parts)


@containers.copy(ServiceContainer)
class OrderContainer(ServiceContainer):
    """The order service."""

    service = providers.Object(SERVICE)
    application = providers.Singleton(
        _application,
        service=service,
        settings=ServiceContainer.settings,
        engine=ServiceContainer.engine,
        outbox=ServiceContainer.outbox,
        requests=ServiceContainer.requests,
    )
