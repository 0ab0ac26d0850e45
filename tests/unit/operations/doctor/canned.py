"""An engine whose connections give answers that were prepared."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self


class Canned(list[Any]):
    """The rows of one answer."""

    def one(self) -> Any:
        return self[0]

    def all(self) -> list[Any]:
        return list(self)

    def scalar_one(self) -> Any:
        return self[0][0]


class CannedEngine:
    """Gives the answers in turn, whatever is asked."""

    def __init__(self, *answers: list[Any]) -> None:
        self._answers = list(answers)

    @contextmanager
    def connect(self) -> Iterator[Self]:
        yield self

    begin = connect

    def execute(self, *_: object) -> Canned:
        return Canned(self._answers.pop(0))


def case(*answers: list[Any], **settings: object) -> Any:
    """A service whose database gives these answers."""
    return SimpleNamespace(
        engine=CannedEngine(*answers),
        settings=SimpleNamespace(**settings),
        service=SimpleNamespace(name="order"),
        command=lambda words: f"`{words}`",
    )
