"""How this process was started: how to type a service's command, for messages that name one, and where its package is.
Both are right in any folder that a repository keeps its services in.

    f"run `{program(service)} migrate` first"
"""

import sys
from pathlib import Path

PACKAGE = "services"
"""The package of the services where none can be detected: in a test, or in a program that is no service's."""


def program(service: str) -> str:
    """Return the beginning of a command of `service`, as it is typed here: `python -m services.order`.

    A process started as `python -m backend.apps.order` uses `backend.apps` for other services too: they lie side by
    side.
    """
    return f"python -m {_beside(service)}"


def packages_beside() -> list[str]:
    """Return the packages of the services that lie beside the one whose command this process runs."""
    folder = service_folder()
    if folder is None:
        return []
    found = sorted(file.parent.name for file in folder.parent.glob("*/container.py") if file.parent != folder)
    return [_beside(name) for name in found]


def service_folder() -> Path | None:
    """Return the folder of the service whose command this process runs; None in any other process."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return Path(file).resolve().parent if file is not None and _package() is not None else None


def _beside(name: str) -> str:
    package = _package()
    beside = PACKAGE if package is None else package.rpartition(".")[0]
    return f"{beside}.{name}" if beside else name


def _package() -> str | None:
    """Return the package of the service whose command this process runs; None in any other process."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    package = spec.parent if spec is not None and spec.name.endswith(".__main__") else None
    # Only a service's `__main__` has a container beside it; pytest's has none.
    return package if package and f"{package}.container" in sys.modules else None
