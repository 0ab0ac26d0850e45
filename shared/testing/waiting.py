"""Waiting for a condition, with a bound: the only way in which a test lets time pass."""

import time
from collections.abc import Callable

SECONDS_MAX = 120.0
"""The longest that anything may take. A takeover waits for the session and transaction timeouts, some 7 s; the rest is
for a busy machine, which may take three times as long as an idle one, or one that is slow.
"""

POLL_SECONDS = 0.02


def until(
    condition: Callable[[], object], what: str = "the condition of this line", seconds: float = SECONDS_MAX
) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(POLL_SECONDS)
