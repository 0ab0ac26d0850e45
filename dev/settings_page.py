"""Write the table of docs/settings.md from the settings, so that it cannot differ: `python -m dev.settings_page`."""

from pathlib import Path

from pydantic_core import PydanticUndefined

from dev.env_example import shown
from shared.settings import Settings

PLACE = Path(__file__).parent.parent / "docs" / "settings.md"
BEGIN, END = "<!-- settings: made by `python -m dev.settings_page` -->\n", "<!-- end of settings -->"


def table() -> str:
    """Return the table: a row for each setting that every service has."""
    rows = ["| setting | default | what it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "*needed*" if field.default is PydanticUndefined else shown(field.default)
        code = f"`{default}`" if default and default != "*needed*" else default
        rows.append(f"| `{name.upper()}` | {code} | {field.description} |")
    return "\n".join(rows)


def written(page: str) -> str:
    """Return the page with the settings of today."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}\n{END}{after}"


if __name__ == "__main__":
    PLACE.write_text(written(PLACE.read_text()))
