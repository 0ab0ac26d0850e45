"""Writes `.env.example` from the settings, so that it cannot say anything else: `python -m dev.env_example`."""

from pathlib import Path

from pydantic_core import PydanticUndefined

from shared.settings import Settings

PLACE = Path(__file__).parent.parent / ".env.example"
EXAMPLES = {
    "kafka_bootstrap_servers": "127.0.0.1:9092",
    "database_url": "postgresql://user:password@127.0.0.1:5432/{service}",
}


def text() -> str:
    """Give the file: each setting with its description; those that have a default are commented out."""
    lines = [
        "# The settings of a process. Copy to .env, or set environment variables; written by: python -m dev.env_example"
    ]
    for name, field in Settings.model_fields.items():
        needed = field.default is PydanticUndefined
        value = EXAMPLES[name] if needed else field.default
        value = str(value).lower() if isinstance(value, bool) else value
        lines += ["", f"# {field.description}", f"{'' if needed else '# '}{name.upper()}={value}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PLACE.write_text(text())
