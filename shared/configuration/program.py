"""How a service's command is typed, for messages that name one: ``f"run `{program(service)} migrate` first"``.

It follows from where the process was started, so it is right in whatever folder a repository keeps its services.
"""

import sys

PACKAGE = "services"
"""Where the services are, if nothing tells: in a test, or in a program that is no service's own."""


def program(service: str) -> str:
    """Return the beginning of a command of `service`, as it is typed here: `python -m services.order`.

    A process that was started as `python -m backend.apps.order` names `backend.apps`, also for another service: they
    lie side by side.
    """
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    package = spec.parent if spec is not None and spec.name.endswith(".__main__") else None
    # Only a service's `__main__` has a container beside it; pytest's has none.
    beside = package.rpartition(".")[0] if package and f"{package}.container" in sys.modules else PACKAGE
    return f"python -m {beside}.{service}" if beside else f"python -m {service}"
