"""Every provider of every service can be built: no type checker catches a misspelt argument of a provider."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import providers
from sqlalchemy import Engine

from dev.service.names import Spellings
from shared.settings import Settings

SERVICES = sorted(path.parent.name for path in Path("services").glob("*/container.py"))


def container_of(service: str) -> Any:
    """Return a new container of `service`, with settings that lead nowhere."""
    module = import_module(f"services.{service}.container")
    container = getattr(module, f"{Spellings(service).title}Container")()
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        kafka_bootstrap_servers="127.0.0.1:1",
        database_url="postgresql://nobody:nothing@127.0.0.1:1/{service}",  # type: ignore[arg-type]
        api_auth="off",
    )
    container.settings.override(providers.Object(settings))
    return container


@pytest.mark.parametrize("service", SERVICES)
def test_the_api_is_built_on_the_service_s_own_parts(service: str) -> None:
    container = container_of(service)
    application = container.application()
    engine: Engine = container.engine()
    assert engine.url.database == service
    assert application.title == f"{service} service"
    assert application.state.parts.requests is container.requests()
    assert application.state.parts.outbox is container.outbox()
    engine.dispose()


@pytest.mark.parametrize("service", SERVICES)
def test_a_worker_loads_neither_the_web_framework_nor_the_migrations(service: str) -> None:
    """Each costs a worker half a second at every start, and it starts again after every kill."""
    program = (
        "import json, sys\n"
        f"import services.{service}.container\n"
        "print(json.dumps(sorted(name for name in sys.modules if '.' not in name)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(json.loads(done.stdout))
    assert {"sqlalchemy", "confluent_kafka"} <= loaded
    unwanted = loaded & {"fastapi", "starlette", "uvicorn", "alembic", "mako"}
    assert not unwanted, f"services/{service}: a worker imports {sorted(unwanted)}; only api.py may"
