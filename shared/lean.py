"""Keeps a process's start short: a worker starts again after every kill, and loading modules is most of that.

Imported before everything else. `dependency_injector` imports FastAPI if it can, for decorators not used here, and
`structlog` imports rich, for tracebacks not printed here: together a third of a second. Both work without, so this
module makes those imports fail, and only those: a service may import either.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

_UNWANTED = {"dependency_injector.wiring": ("fastapi", "starlette"), "structlog.dev": ("rich",)}
"""Modules, and what they import that nobody here needs."""


@contextmanager
def loading() -> Iterator[None]:
    """Load modules in this block. They make a hundred thousand objects that stay: Python's looks for garbage among
    them, in vain, take a fifth of the time, so there are none in the block, and none at these objects later.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()  # else the first look after the block would go through everything
            gc.enable()


def _import_without(module: str, unwanted: tuple[str, ...]) -> None:
    absent = [name for name in unwanted if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment] # what importlib takes for "cannot be imported"
    try:
        import_module(module)
    finally:
        for name in absent:
            del sys.modules[name]


with loading():
    for _module, _names in _UNWANTED.items():
        _import_without(_module, _names)
