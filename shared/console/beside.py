"""What stands beside the picture: numbers of somebody else, who renews a file (`CONSOLE_BESIDE`). The demo shows its
running balance there. The console knows nothing of what they mean, and believes none that are not renewed.
"""

import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .looks import Look, Watch

BYTES_MAX = 20_000
"""Of the file: more than all rows at their longest."""
ROWS_MAX = 20
RENEWED_SECONDS = 5.0
"""What was not renewed for this long is not known any more."""
LOOK_SECONDS = 0.5
"""Between two looks at the file, as at everything that flows."""

Words = Annotated[str, Field(max_length=300)]


class Row(BaseModel):
    """One number."""

    model_config = ConfigDict(extra="forbid")

    what: Words
    value: Words | None
    """None is shown as unknown."""
    note: Words = ""
    state: Literal["ok", "warn", "bad"] | None = None
    """None: neither good nor bad."""


class Beside(BaseModel):
    """What the file says."""

    model_config = ConfigDict(extra="forbid")

    title: Words
    state: Literal["ok", "warn", "bad"] | None = None
    words: Words = ""
    """Of the state."""
    note: Words = ""
    rows: Annotated[list[Row], Field(max_length=ROWS_MAX)]


class File:
    """Looks at the file."""

    def __init__(self, place: Path, watch: Watch) -> None:
        self._place = place
        self.look: Look[Beside] = Look(f"beside: {place}", self.read, every=LOOK_SECONDS, watch=watch)

    def read(self) -> Beside:
        """Return what the file says. Raises `ValueError`, or `OSError`."""
        with self._place.open("rb") as file:
            content = file.read(BYTES_MAX + 1)
            renewed = self._place.stat().st_mtime
        if len(content) > BYTES_MAX:
            raise ValueError(f"it has more than {BYTES_MAX:,} bytes")
        if (seconds := time.time() - renewed) > RENEWED_SECONDS:
            raise ValueError(f"it was not renewed for {seconds:.0f} s")
        try:
            return Beside.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where or 'it'}: {first['msg']}") from error

    def shown(self) -> tuple[Beside | None, str]:
        """Return what is known now; or why nothing is."""
        found = self.look.known(RENEWED_SECONDS)
        if found is not None and not self.look.failure:
            return found, ""
        return None, f"{self._place.name}: {self.look.failure}" if self.look.failure else "not read yet"
