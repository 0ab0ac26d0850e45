"""A worker starts again after every kill, so it imports nothing that only an API or a migration needs. The library does
not know its own name.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/__main__.py"))
UNWANTED = {
    "aiohttp",
    "alembic",
    "fastapi",
    "httpx",
    "kafka",
    "mako",
    "opentelemetry",
    "pygments",
    "rich",
    "starlette",
    "uvicorn",
}
"""Modules that a worker does not need. A service may need another system's client."""


@pytest.mark.parametrize("service", SERVICES)
def test_a_worker_imports_no_web_framework_and_no_migrations(service: str) -> None:
    # In the order of `__main__`. All that a worker needs is imported then: the providers import nothing but the API.
    program = f"import services.{service}.container, shared.command, sys; print(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert not [name for name in printed.split() if name.startswith(("shared.testing", "shared.http"))]
    imported = {name.partition(".")[0] for name in printed.split()}
    assert {"sqlalchemy", "confluent_kafka"} <= imported
    assert not imported & UNWANTED, (
        f"a worker of {service} imports {sorted(imported & UNWANTED)} at its start: import that inside the function "
        f"that needs it, or in api.py"
    )


def test_no_look_for_garbage_delays_a_start() -> None:
    """A look that goes through all modules takes a tenth of their loading; the small ones between them are cheap."""
    program = (
        "import gc; looks = []; gc.callbacks.append(lambda phase, facts: looks.append(len(gc.get_objects()))); "
        f"import services.{SERVICES[0]}.container, shared.command; "
        "print(gc.isenabled(), max(looks, default=0), gc.get_freeze_count())"
    )
    enabled, largest, frozen = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert enabled == "True"
    assert int(largest) < int(frozen) / 4


def test_what_the_start_leaves_out_can_be_imported() -> None:
    program = (
        "import shared.container, structlog, rich, rich.console, fastapi; print(rich.console.Console, fastapi.FastAPI)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)


LIBRARY = sorted((ROOT / "shared").rglob("*.py"))


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT / "shared")))
def test_the_library_names_itself_nowhere(path: Path) -> None:
    """So it works as any package in any folder. Docstrings and comments are for readers."""
    tree = ast.parse(path.read_text())
    documented = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [f"import {alias.name}" for alias in node.names if re.match(r"shared\b", alias.name)]
        elif isinstance(node, ast.ImportFrom) and not node.level and re.match(r"shared\b", node.module or ""):
            found.append(f"from {node.module} import ...")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            found += [f'"{node.value}"'] if re.match(r"shared(\.|$)", node.value) else []
    assert found == [], "import it relatively (`from .errors import ...`), and begin a target of `lazily` with a dot"
