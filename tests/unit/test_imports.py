"""A worker starts again after every kill, so it imports nothing that only an API or a migration needs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/__main__.py"))
UNWANTED = {"alembic", "fastapi", "kafka", "mako", "starlette", "uvicorn"}
"""A client of its own, for another system, a service may need; these it does not."""


@pytest.mark.parametrize("service", SERVICES)
def test_a_worker_imports_no_web_framework_and_no_migrations(service: str) -> None:
    # In the order of `__main__`. All that a worker needs is imported then: the providers import nothing but the API.
    program = f"import services.{service}.container, shared.command, sys; print(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    imported = {name.partition(".")[0] for name in printed.split()}
    assert {"sqlalchemy", "confluent_kafka"} <= imported
    assert not imported & UNWANTED, (
        f"a worker of {service} imports {sorted(imported & UNWANTED)} at its start: import that inside the function "
        f"that needs it, or in api.py"
    )
