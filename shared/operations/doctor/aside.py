"""Calls that may never return, on threads that end with the process."""

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from time import monotonic
from typing import TypeVar

Given = TypeVar("Given")
Answer = TypeVar("Answer")


def begin(call: Callable[[], Answer]) -> Future[Answer]:
    """Begin a call, on a thread that is not waited for when the process ends, as those of a pool are."""
    answer: Future[Answer] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - whoever asks for the answer gets it
            answer.set_exception(error)

    threading.Thread(target=run, name="doctor", daemon=True).start()
    return answer


def each(
    call: Callable[[Given], Answer], given: Iterable[Given], seconds: float, late: Answer
) -> Mapping[Given, Answer]:
    """Call it for each side by side; `late` for those that do not return in time. Raises what a call raises."""
    deadline = monotonic() + seconds
    begun = {one: begin(partial(call, one)) for one in given}
    found = {}
    for one, answer in begun.items():
        try:
            found[one] = answer.result(max(0.0, deadline - monotonic()))
        except TimeoutError:
            found[one] = late
    return found
