"""What the skeleton service does about each event, without Kafka."""

from dev.service.skeleton.service.events import SkeletonNoted, SomethingHappened
from dev.service.skeleton.service.handlers import SERVICE
from dev.service.skeleton.service.models import Base
from tests.unit.services.trial import MakeTrial


def test_each_event_is_noted_and_published(trial: MakeTrial) -> None:
    batch = trial(SERVICE, Base)

    published = batch.handle(SomethingHappened(something_id="a"), SomethingHappened(something_id="a"))

    assert published == [SkeletonNoted(something_id="a", times=1), SkeletonNoted(something_id="a", times=2)]
    assert batch.handle(SomethingHappened(something_id="a")) == [SkeletonNoted(something_id="a", times=3)]
