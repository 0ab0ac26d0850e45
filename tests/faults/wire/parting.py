"""The parts into which both protocols are split."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.wire.rules import Rule


class Garbage(Exception):
    """The data is not in the protocol spoken here."""


@dataclass(frozen=True, eq=False)
class Part:
    """What a client sends at once: a whole request."""

    data: bytes

    @property
    def name(self) -> str:
        """Its name, for rules and for readers of the notes."""
        raise NotImplementedError


@dataclass(eq=False)
class Passage:
    """A request that was passed on, and the rule for its reply."""

    request: Part
    rule: "Rule | None" = None
    reply_lost: bool = False
    misspelled: tuple[int, bytes] = (0, b"")
    """What is spelled backwards on its way there, and where; in the reply it is put right again."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether the whole reply has come."""
