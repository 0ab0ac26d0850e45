"""What the skeleton service does about each event."""

from collections.abc import Iterable

from dev.service.skeleton.service.events import SkeletonNoted, SomethingHappened
from dev.service.skeleton.service.models import Skeleton
from shared.events import Event
from shared.service import Read, Service, on
from shared.session import Session


def note(key: str, session: Session) -> SkeletonNoted:
    """Note that something was consumed about the aggregate `key`."""
    found = session.lock(Skeleton, key)
    if found is None:
        found = Skeleton(something_id=key, times=0)
        session.add(found)
    found.times += 1
    return SkeletonNoted(something_id=key, times=found.times)


def happened(event: SomethingHappened, session: Session) -> Iterable[Event]:
    """Note it, and publish that."""
    return (note(event.something_id, session),)


SERVICE = Service(
    name="skeleton",
    routes=(on(SomethingHappened, happened, Read(Skeleton, lambda event, _: (event.something_id,))),),
    publishes=(SkeletonNoted,),
)
