"""What the skeleton service publishes, and its own view of what it consumes.

It imports no other service, and reads only the fields it needs.
"""

from typing import Annotated, ClassVar

from msgspec import Meta

from shared.events import Event

Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z")]
"""No character of it needs quoting in a URL, a log or a shell."""


class Keyed(Event, frozen=True, kw_only=True):
    """An event about one aggregate, and keyed by it."""

    something_id: Id

    @property
    def key(self) -> str:
        """All events of one aggregate stay in order."""
        return self.something_id


class SkeletonNoted(Keyed, frozen=True, kw_only=True):
    """Something was noted about the aggregate, for the first time, the second, and so on."""

    topic: ClassVar[str] = "skeleton.events"
    times: Annotated[int, Meta(ge=1)]


class SomethingHappened(Keyed, frozen=True, kw_only=True):
    """Consumed: it is noted."""

    topic: ClassVar[str] = "elsewhere.events"
