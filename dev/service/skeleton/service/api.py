"""The skeleton service's HTTP API."""

from dev.service.skeleton.service.events import SkeletonNoted
from dev.service.skeleton.service.models import Skeleton
from shared import Id
from shared.http import Created, ResponseBody, Router, Transaction

router = Router(scope="skeleton")


class SkeletonResponse(ResponseBody, of=Skeleton):
    """What is known of one aggregate."""

    something_id: str
    times: int


@router.post("/skeleton/{something_id}/notes")
def note_by_hand(something_id: Id, session: Transaction) -> Created[SkeletonResponse]:
    """Note something that no event has reported."""
    known, _ = session.lock_or_add(Skeleton(something_id=something_id, times=0))
    known.times += 1
    session.publish(SkeletonNoted(something_id=something_id, times=known.times))
    return Created(SkeletonResponse.of(known))
