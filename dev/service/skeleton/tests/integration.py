"""The skeleton service on real servers: a request, and workers that are killed."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.service.skeleton.service.container import SkeletonContainer
from dev.service.skeleton.service.events import SkeletonNoted, SomethingHappened
from shared.testing import Api, Plan, Rehearsal, Servers, migrated, served


@pytest.fixture(scope="module")
def api(servers: Servers) -> Iterator[Api]:
    with migrated(servers.postgres, "skeleton") as settings, served(SkeletonContainer, settings) as api:
        yield api


@pytest.fixture
def rehearsal(servers: Servers, tmp_path: Path) -> Iterator[Rehearsal]:
    with Rehearsal(SkeletonContainer, servers, tmp_path) as rehearsal:
        yield rehearsal


def test_a_request_is_noted_once_and_published_once(api: Api) -> None:
    once = {"Idempotency-Key": "the-same-intent"}
    answers = [api.post("/skeleton/a/notes", headers=headers) for headers in (once, once, {})]

    assert [(answer.status_code, answer.json()["times"]) for answer in answers] == [(201, 1), (201, 1), (201, 2)]
    assert api.sql("SELECT event_type, key FROM exactly_once_outbox ORDER BY id") == [("SkeletonNoted", "a")] * 2


@pytest.mark.parametrize(
    "plan",
    [
        Plan("transaction.commit", after=False),
        Plan("transaction.commit", after=True),
        Plan("kafka.commit", after=True),
    ],
    ids=str,
)
def test_a_worker_is_killed_and_the_books_balance(rehearsal: Rehearsal, plan: Plan) -> None:
    dying = rehearsal.worker(plan)
    rehearsal.tell(SomethingHappened(something_id=f"key-{n % 8}") for n in range(40))
    rehearsal.until_killed(dying)
    rehearsal.tell(SomethingHappened(something_id=f"key-{n % 8}") for n in range(40))
    rehearsal.worker()
    rehearsal.until_drained()

    assert rehearsal.problems() == []
    times = defaultdict(list)
    for event in rehearsal.published(SkeletonNoted):
        times[event.key].append(event.times)
    assert times == {f"key-{n}": list(range(1, 11)) for n in range(8)}
