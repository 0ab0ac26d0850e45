"""Answers that come while others are being written wait for them, and are then written together.

At rest each answer is written at once, in a transaction of its own. Under load there are fewer and larger transactions.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import zip_longest

from .declaration import Answer
from .queue import Due
from .settling import Outcome

TOGETHER_MAX = 50
"""Answers in one transaction: it holds the locks of all of them."""

APART_SECONDS = 0.25
"""What a group takes at most, even on a busy machine. If one takes longer, the next does not wait for it."""

GROUPS = 3
"""Transactions at a time: some threads of the caller remain for all else."""

Write = Callable[[Sequence[tuple[Due, Answer]]], Awaitable[list[Outcome] | None]]
"""Writes answers, or the first of them; returns None if it has changed nothing."""


class Together:
    """Collects answers into groups. All of it runs on one event loop."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: list[tuple[tuple[Due, Answer], asyncio.Future[Outcome | None]]] = []
        self._groups: set[asyncio.Task[None]] = set()
        self._later: asyncio.TimerHandle | None = None

    async def write(self, due: Due, answer: Answer) -> Outcome | None:
        """Write `answer` with others; return None if it is still to be written. Raises nothing of its own."""
        written: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(((due, answer), written))
        if not self._groups:
            self._next()
        elif self._later is None:
            self._soon()
        return await written

    def _soon(self) -> None:
        self._later = asyncio.get_running_loop().call_later(APART_SECONDS, self._late)

    def _late(self) -> None:
        self._later = None
        self._next()

    def _next(self) -> None:
        """Begin a group, if answers wait and there is room for one."""
        if not self._waiting or len(self._groups) >= GROUPS:
            return
        group, self._waiting = self._waiting[:TOGETHER_MAX], self._waiting[TOGETHER_MAX:]
        task = asyncio.create_task(self._written(group))
        self._groups.add(task)
        task.add_done_callback(self._ended)
        if self._waiting and self._later is None:
            self._soon()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._groups.discard(task)
        self._next()

    async def _written(self, group: Sequence[tuple[tuple[Due, Answer], "asyncio.Future[Outcome | None]"]]) -> None:
        outcomes: Sequence[Outcome] = ()
        try:
            outcomes = await self._write([one for one, _ in group]) or ()
        finally:
            for (_, future), outcome in zip_longest(group, outcomes):
                if not future.done():  # its task was cancelled
                    future.set_result(outcome)
