"""What the skeleton service does about each event, without a server."""

from dev.service.skeleton.service.events import SkeletonNoted, SomethingHappened
from dev.service.skeleton.service.handlers import happened
from tests.unit.services.memory import MemorySession


def test_each_event_is_noted_and_said() -> None:
    session = MemorySession()

    said = [event for _ in range(2) for event in happened(SomethingHappened(something_id="a"), session)]

    assert said == [SkeletonNoted(something_id="a", times=1), SkeletonNoted(something_id="a", times=2)]
    assert session.holds("a")
