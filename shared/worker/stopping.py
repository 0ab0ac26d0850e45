"""Whether the process was asked to stop: set by a signal handler, and waited for by the main thread that it interrupts.

Not `threading.Event`: a handler runs in the main thread between two of its steps, and `set` would wait for the lock
that `wait`, which it interrupted, may just hold. A worker that SIGTERM finds there would hang until SIGKILL.
"""

from queue import Empty, SimpleQueue


class Stopping:
    """A flag that a signal handler may set at any moment; who waits for it wakes at once."""

    def __init__(self) -> None:
        self._asked = False
        self._wakes: SimpleQueue[None] = SimpleQueue()  # its `put` is reentrant, as the documentation of `queue` says

    def is_set(self) -> bool:
        """Return whether the process was asked to stop."""
        return self._asked

    def set(self) -> None:
        """Ask the process to stop."""
        self._asked = True
        self._wakes.put(None)

    def wait(self, seconds: float) -> bool:
        """Wait until the process is asked to stop, at most `seconds`; return whether it was."""
        if not self._asked:
            try:
                self._wakes.get(timeout=max(0.0, seconds))
            except Empty:
                pass
            else:
                self._wakes.put(None)  # for others who wait
        return self._asked
