"""A limited connection whose requests are parsed by h11, in Python: where httptools cannot be had."""

from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from .connections import Limited


class Connection(Limited, H11Protocol):
    """One connection."""

    def working_on(self) -> Any:
        return self.cycle

    def handle_events(self) -> None:
        """Handle what arrived; the end of a head begins an answer."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self.work_begins()
