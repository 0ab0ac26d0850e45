"""The events that the skeleton service publishes, and its view of those it consumes.

The view has only the fields that the service needs.
"""

from typing import Annotated

from msgspec import Meta

from shared import Event, Id


class Keyed(Event, key="something_id"):
    """An event about one aggregate: all events of one aggregate stay in order."""

    something_id: Id


class SkeletonNoted(Keyed, topic="skeleton.events"):
    """Something was noted about the aggregate, for the first time, the second, and so on."""

    times: Annotated[int, Meta(ge=1)]


class SomethingHappened(Keyed, topic="elsewhere.events"):
    """Consumed: it is noted."""
