"""Keeps a worker's start short: imported before `dependency_injector`, whose wiring imports FastAPI if it can.

That is for decorators not used here, costs 0.3 s at every start of a worker, and a worker restarts after every kill.
The wiring works without FastAPI if its import fails, so this module makes that one import fail.
"""

import sys
from importlib import import_module

_UNWANTED = ("fastapi", "starlette")


def _import_wiring() -> None:
    absent = [name for name in _UNWANTED if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment] # what importlib takes for "cannot be imported"
    try:
        import_module("dependency_injector.wiring")
    finally:
        for name in absent:
            del sys.modules[name]


_import_wiring()
