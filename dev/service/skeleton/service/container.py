"""Puts the skeleton service together."""

from dev.service.skeleton.service.handlers import service
from shared.container import ServiceContainer, containers, providers


@containers.copy(ServiceContainer)
class SkeletonContainer(ServiceContainer):
    service = providers.Object(service)
    routes = providers.Object("dev.service.skeleton.service.api:router")
