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
UNWANTED = {"alembic", "fastapi", "kafka", "mako", "starlette", "uvicorn"}
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
