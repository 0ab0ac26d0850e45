"""The skeleton service's HTTP API."""

from typing import Annotated

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel
from sqlalchemy.dialects.postgresql import insert

from dev.service.skeleton.service.handlers import note
from dev.service.skeleton.service.models import Skeleton
from shared.http.call import ApiResponse, CurrentCall, Route
from shared.http.problems import documented
from shared.session import Session

router = APIRouter(route_class=Route, tags=["skeleton"])

Id = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]


class SkeletonResponse(BaseModel):
    """What is known of one aggregate."""

    something_id: str
    times: int


@router.post(
    "/skeleton/{something_id}/notes",
    status_code=201,
    response_model=SkeletonResponse,
    responses=documented(400, 409, 415),
)
def note_by_hand(something_id: Id, call: CurrentCall) -> Response:
    """Note something that no event has told."""

    def work(session: Session) -> ApiResponse:
        # A handler may be adding the same row at this moment; its batch is repeated, a request is not.
        session.execute(insert(Skeleton).values(something_id=something_id, times=0).on_conflict_do_nothing())
        published = note(something_id, session)
        call.publish(session, published)
        return ApiResponse(201, SkeletonResponse(something_id=something_id, times=published.times))

    return call.once(work)
