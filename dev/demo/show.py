"""The demo's progress display: on a terminal a status that is renewed, elsewhere a plain line now and then."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.status import Status

LINE_SECONDS = 5.0
"""Between two plain lines of progress: often enough to see that it works, seldom enough to read."""


class Show:
    """Shows events as they happen, and the current state."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._began = time.monotonic()
        self._last_line = 0.0
        self.lines: list[str] = []
        """The lines shown so far, in rich's markup."""
        self.results: list[RenderableType] = []
        self._status: Status | None = self.console.status("") if self.console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def echo(self, message: str) -> None:
        """Show a line that stays."""
        self.lines.append(f"[dim]{self._clock()}[/dim]  {message}")
        self.console.print(self.lines[-1], soft_wrap=True)

    def progress(self, message: str) -> None:
        """Show the progress."""
        if self._status is not None:
            self._status.update(f"{self._clock()}  {message}")
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self.console.print(f"{self._clock()}  ... {message}", soft_wrap=True)

    def print(self, what: RenderableType) -> None:
        """Show a result."""
        self.results.append(what)
        self.console.print(what, soft_wrap=True)

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._began)
        return f"{seconds // 60:02}:{seconds % 60:02}"
