"""What the skeleton service does about each event, without servers."""

from dev.service.skeleton.service.events import SkeletonNoted, SomethingHappened
from dev.service.skeleton.service.handlers import service
from dev.service.skeleton.service.models import Skeleton
from shared.testing import Scene


def test_each_event_is_noted_and_published() -> None:
    scene = Scene(service, Skeleton(something_id="a", times=1))
    assert scene.when(SomethingHappened(something_id="a")) == [SkeletonNoted(something_id="a", times=2)]
    assert scene.row(Skeleton, "a").times == 2


def test_a_batch_notes_what_is_new() -> None:
    published = Scene(service).when(SomethingHappened(something_id="b"), SomethingHappened(something_id="b"))
    assert published == [SkeletonNoted(something_id="b", times=1), SkeletonNoted(something_id="b", times=2)]
