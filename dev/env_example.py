"""Writes `.env.example` from the settings, so that the two agree: `python -m dev.env_example`."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dev.servers import service_names
from shared.settings import Settings

PLACE = Path(__file__).parent.parent / ".env.example"
EXAMPLES = {
    "kafka_bootstrap_servers": "127.0.0.1:9092",
    "database_url": "postgresql://user:password@127.0.0.1:5432/{service}",
}


def shown(value: object) -> str:
    """Spell a value as it stands in the file."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case SecretStr():
            return value.get_secret_value()
        case _:
            return str(value)


def own(service: str) -> dict[str, FieldInfo]:
    """Return the settings that a service has besides those of all: they are in a subclass, in its `settings.py`."""
    if not (PLACE.parent / "services" / service / "settings.py").exists():
        return {}
    found = vars(import_module(f"services.{service}.settings")).values()
    kinds = [kind for kind in found if isinstance(kind, type) and issubclass(kind, Settings)]
    return {
        name: field for kind in kinds for name, field in kind.model_fields.items() if name not in Settings.model_fields
    }


def _lines(fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    """Each setting with its description; those that have a default are commented out."""
    for name, field in fields.items():
        needed = field.default is PydanticUndefined
        value = EXAMPLES.get(name, "") if needed else field.default
        yield from ("", f"# {field.description}", f"{'' if needed else '# '}{name.upper()}={shown(value)}")


def text() -> str:
    """Return the file."""
    lines = [
        "# The settings of a process. Copy to .env, or set environment variables; made by: python -m dev.env_example",
        "# A secret (DATABASE_URL, a password) may be in a file: DATABASE_URL_FILE is then its path.",
        *_lines(Settings.model_fields),
    ]
    for service in service_names():
        if fields := own(service):
            lines += ["", f"# ---- only {service}", *_lines(fields)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PLACE.write_text(text())
