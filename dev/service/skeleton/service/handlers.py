"""What the skeleton service does about each event."""

from dev.service.skeleton.service.events import SkeletonNoted, SomethingHappened
from dev.service.skeleton.service.models import Skeleton
from shared import Service, Session

service = Service("skeleton", publishes=(SkeletonNoted,))


@service.on(SomethingHappened)
def note(event: SomethingHappened, session: Session, known: Skeleton | None) -> SkeletonNoted:
    """Note it, and publish how often that was done."""
    if known is None:
        known = Skeleton(something_id=event.something_id, times=0)
        session.add(known)
    known.times += 1
    return SkeletonNoted(something_id=event.something_id, times=known.times)
