"""Writes `.env.example` from the settings, so that it cannot say anything else: `python -m dev.env_example`."""

from pathlib import Path

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

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


def text() -> str:
    """Give the file: each setting with its description; those that have a default are commented out."""
    lines = [
        "# The settings of a process. Copy to .env, or set environment variables; made by: python -m dev.env_example",
        "# A secret (DATABASE_URL, a password) may be in a file: DATABASE_URL_FILE is then its path.",
    ]
    for name, field in Settings.model_fields.items():
        needed = field.default is PydanticUndefined
        value = EXAMPLES[name] if needed else field.default
        lines += ["", f"# {field.description}", f"{'' if needed else '# '}{name.upper()}={shown(value)}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PLACE.write_text(text())
