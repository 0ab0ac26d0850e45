"""The outermost layer answers even when all below it fails, and lets in no more than it can hold."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio.to_thread
import pytest
from anyio import CapacityLimiter
from prometheus_client import REGISTRY
from starlette.types import Message, Receive, Scope, Send

from shared.http import guard
from shared.http.guard import Guard


def scope(*headers: tuple[bytes, bytes], method: str = "POST") -> Scope:
    return {"type": "http", "method": method, "path": "/x", "headers": list(headers)}


async def call(app: Guard, request: Scope, *parts: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send one request; return status, headers and body."""
    incoming = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    incoming.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(request, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


async def reading(scope: Scope, receive: Receive, send: Send) -> None:
    """Return an application that reads its body and answers."""
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"yes"})


def test_a_declared_length_is_refused_before_anything_is_read() -> None:
    status, headers, _ = asyncio.run(
        call(Guard(reading, body_bytes_max=10, seconds_max=5), scope((b"content-length", b"11")))
    )
    assert (status, headers[b"content-type"]) == (413, b"application/problem+json")


@pytest.mark.parametrize("length", [b"-1", b"x", b"1e3", b"\xb2"])
def test_a_length_that_is_none_is_refused(length: bytes) -> None:
    assert (
        asyncio.run(call(Guard(reading, body_bytes_max=10, seconds_max=5), scope((b"content-length", length))))[0]
        == 413
    )


def test_a_body_up_to_the_limit_passes() -> None:
    assert asyncio.run(call(Guard(reading, body_bytes_max=10, seconds_max=5), scope(), b"12345", b"67890"))[0] == 200


def test_a_defect_is_answered_without_its_cause() -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("my secret")

    status, _, body = asyncio.run(call(Guard(failing, body_bytes_max=10, seconds_max=5), scope()))
    assert status == 500
    assert b"secret" not in body


def test_a_defect_after_the_answer_began_sends_nothing_more() -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    assert asyncio.run(call(Guard(failing, body_bytes_max=10, seconds_max=5), scope())) == (200, {}, b"")


def test_more_requests_than_it_can_hold_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "IN_FLIGHT_MAX", 3)

    async def run() -> list[int]:
        release = asyncio.Event()

        async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
            await release.wait()
            await reading(scope, receive, send)

        app = Guard(waiting, body_bytes_max=10, seconds_max=5)
        calls = [asyncio.create_task(call(app, scope())) for _ in range(5)]
        await asyncio.sleep(0)
        release.set()
        answers = [(await answer)[0] for answer in calls]
        return [*answers, (await call(app, scope()))[0]]

    assert asyncio.run(run()) == [200, 200, 200, 503, 503, 200]


def test_a_method_that_nobody_knows_makes_no_new_metric() -> None:
    asyncio.run(call(Guard(reading, body_bytes_max=10, seconds_max=5), scope(method="BREW")))
    labels = {"method": "(other)", "route": "(none)", "status": "200"}
    assert REGISTRY.get_sample_value("exactly_once_http_request_seconds_count", labels) == 1


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_what_is_no_request_passes(kind: str) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        seen.append(scope)

    async def nothing(*_: object) -> Any:
        return {}

    asyncio.run(Guard(app, body_bytes_max=10, seconds_max=5)({"type": kind}, nothing, nothing))
    assert seen == [{"type": kind}]


def test_what_takes_too_long_is_answered_and_says_nothing_more() -> None:
    events: list[str] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            events.append("taken back")
            await reading(scope, receive, send)

    status, headers, _ = asyncio.run(call(Guard(slow, body_bytes_max=10, seconds_max=0.01), scope()))
    assert (status, headers[b"content-type"]) == (503, b"application/problem+json")
    assert int(headers[b"retry-after"]) > 0
    assert events == ["taken back"]


def test_a_body_that_comes_too_slowly_is_not_waited_for() -> None:
    async def run() -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            await asyncio.sleep(3600)
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        await Guard(reading, body_bytes_max=10, seconds_max=0.01)(scope(), receive, send)
        return sent

    assert [message.get("status") for message in asyncio.run(run())] == [408, None]


def test_a_late_request_still_counts_as_one_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread cannot be stopped: while it works, it takes another request's place."""
    monkeypatch.setattr(guard, "IN_FLIGHT_MAX", 1)

    async def run() -> list[int]:
        release = asyncio.Event()

        async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.shield(asyncio.ensure_future(release.wait()))

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if release.is_set():
                await reading(scope, receive, send)
                return
            work = asyncio.ensure_future(stubborn(scope, receive, send))
            while not work.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.shield(work)

        guarded = Guard(app, body_bytes_max=10, seconds_max=0.01)
        answers = [(await call(guarded, scope()))[0] for _ in range(2)]
        release.set()
        while guarded._in_flight:
            await asyncio.sleep(0)
        return [*answers, (await call(guarded, scope()))[0]]

    refused_before = REGISTRY.get_sample_value("exactly_once_http_requests_refused_total") or 0
    assert asyncio.run(run()) == [503, 503, 200]
    assert REGISTRY.get_sample_value("exactly_once_http_requests_refused_total") == refused_before + 1


def test_a_request_that_is_given_up_keeps_its_place_until_its_thread_has_ended() -> None:
    """Otherwise each request would start another thread while the database stands still. A waiting one ends."""
    go_on = threading.Event()
    started: list[int] = []

    def stand_still() -> None:
        started.append(1)
        go_on.wait(30)

    async def both() -> tuple[list[int], float, float]:
        limiter = CapacityLimiter(1)

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await anyio.to_thread.run_sync(stand_still, limiter=limiter)

        app = Guard(slow, body_bytes_max=10, seconds_max=0.05)
        try:
            statuses = [(await call(app, scope()))[0] for _ in range(3)]
            held = limiter.borrowed_tokens
            for _ in range(100):  # turns of the loop
                await asyncio.sleep(0)
            waiting = limiter.statistics().tasks_waiting
        finally:
            go_on.set()
        async with limiter:  # the thread has ended
            return statuses, held, waiting

    assert asyncio.run(both()) == ([503, 503, 503], 1, 0)
    assert started == [1]
