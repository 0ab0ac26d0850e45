"""Answers that come while others are being written are written together."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from shared.calls import Answer, together
from shared.calls.queue import Due
from shared.calls.settling import Outcome
from shared.calls.together import Together

YES = Answer(200, {}, b"")
DONE = Outcome("done")


class Book:
    """Writes a group when it is told to."""

    def __init__(self) -> None:
        self.groups: list[list[Any]] = []
        self.gate = asyncio.Event()

    async def write(self, answers: Sequence[tuple[Due, Answer]]) -> list[Outcome] | None:
        names: list[Any] = [due for due, _ in answers]
        self.groups.append(names)
        await self.gate.wait()
        if "slow" in names:
            return [DONE] * names.index("slow")
        return None if "fails" in names else [DONE] * len(names)


def put(together: Together, *names: str) -> "list[asyncio.Task[Outcome | None]]":
    return [asyncio.create_task(together.write(cast("Due", name), YES)) for name in names]


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_first_is_written_at_once_and_what_comes_meanwhile_together() -> None:
    async def story() -> None:
        book = Book()
        groups = Together(book.write)
        tasks = put(groups, "a")
        await turn()
        tasks += put(groups, "b", "c")
        await turn()
        assert book.groups == [["a"]]
        book.gate.set()
        assert await asyncio.gather(*tasks) == [DONE] * 3
        assert book.groups == [["a"], ["b", "c"]]

    asyncio.run(story())


def test_who_was_in_a_group_that_failed_is_told_that_nothing_was_written() -> None:
    async def story() -> None:
        book = Book()
        groups = Together(book.write)
        book.gate.set()
        tasks = put(groups, "a", "fails", "c")
        assert await asyncio.gather(*tasks) == [DONE, None, None]

    asyncio.run(story())


def test_of_a_group_that_takes_long_only_the_first_are_written() -> None:
    async def story() -> None:
        book = Book()
        groups = Together(book.write)
        book.gate.set()
        assert await asyncio.gather(*put(groups, "a", "b", "slow", "d")) == [DONE, DONE, None, None]

    asyncio.run(story())


def test_no_group_waits_for_ever_for_one_that_takes_long(monkeypatch: Any) -> None:
    monkeypatch.setattr(together, "APART_SECONDS", 0.0)
    monkeypatch.setattr(together, "TOGETHER_MAX", 2)

    async def story() -> None:
        book = Book()
        groups = Together(book.write)
        tasks = put(groups, *"abcdefgh")
        async with asyncio.timeout(10):
            while len(book.groups) < together.GROUPS:
                await asyncio.sleep(0)
        await turn()
        assert book.groups == [["a"], ["b", "c"], ["d", "e"]]
        book.gate.set()
        assert await asyncio.gather(*tasks) == [DONE] * 8

    asyncio.run(story())


def test_one_that_is_cancelled_stops_no_other() -> None:
    async def story() -> None:
        book = Book()
        groups = Together(book.write)
        given_up, stays = put(groups, "a", "b")
        await turn()
        given_up.cancel()
        book.gate.set()
        assert await stays == DONE

    asyncio.run(story())
