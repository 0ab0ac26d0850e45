"""Places orders while processes are struck, and shows the progress."""

import threading
from collections.abc import Callable

from dev.demo.chaos import Chaos
from dev.demo.load import Load
from dev.demo.observer import Observer
from dev.demo.show import Show
from dev.demo.stage import Stage

PROGRESS_SECONDS = 0.2
# Thawing, or starting a server again, takes some seconds at most.
UNDO_SECONDS = 60.0


class Background(threading.Thread):
    """Work on a thread of its own; waiting for it raises its error."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        # A daemon: Ctrl+C must not wait for customers who insist.
        super().__init__(name=name, daemon=True)
        self._work = work
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - it belongs to the one who waits
            self._error = error

    def done(self, seconds: float) -> bool:
        """Wait a while; return whether the work is done. Raises its error."""
        self.join(seconds)
        if self._error is not None:
            raise self._error
        return not self.is_alive()


def flow(system: Stage, load: Load, chaos: Chaos, observer: Observer, show: Show) -> None:
    """Return when the plan is done, with no process frozen and every server up."""
    customers = Background(load.run, "customers")
    strikes = Background(chaos.run, "chaos")
    try:
        # Bounded by the two plans: each request and each blow has a bound of its own.
        while not (customers.done(PROGRESS_SECONDS) and strikes.done(0)):
            strikes.done(0)
            system.supervisor.check()
            show.progress(progress(load, chaos, observer))
    finally:
        load.stop()
        chaos.stop()
        strikes.join(UNDO_SECONDS)


def progress(load: Load, chaos: Chaos, observer: Observer) -> str:
    """Describe the progress in one line."""
    counts = observer.counts
    kills = sum(struck.blow.kind == "kill" for struck in chaos.struck)
    return (
        f"{load.counts['accepted']:,} orders placed: {counts['OrderConfirmed']:,} confirmed, "
        f"{counts['OrderRejected']:,} rejected, {counts['OrderCancelled']:,} cancelled; {kills} kills"
    )
