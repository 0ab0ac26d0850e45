"""The state of a worker in its health and metrics: what it does, whether it is ready, what it waits for."""

from ..protocol.cycle import Cycle
from ..telemetry import metrics
from ..telemetry.waits import MAIN_LOOP, Wait
from .observer import Observer

NEAR = 0.8
"""The share of what may be parked of an input at which a worker is no longer ready: somebody has to look."""


class Health:
    """The state of one worker. It shows only what it knows."""

    def __init__(self, observer: Observer, *, debugging: bool) -> None:
        self._observer = observer
        self._debugging = debugging
        self._share: Wait | None = None
        self.is_ready = False
        self.enter("starting")

    def told(self) -> tuple[bool, str]:
        """Return whether this worker works or stands by, and what it is doing."""
        if self._debugging:
            return False, f"debugging (DEBUG_NO_TIMEOUTS): {self._state}"
        silence = self._observer.silence()
        if self.is_ready and silence:  # the main loop may be waiting for it silently
            return False, silence
        cause = "" if self._state.startswith("waiting") else silence
        words = (self._state, cause, MAIN_LOOP.words(), self._observer.held_back())
        return self.is_ready, "; ".join(filter(None, words))

    def enter(self, state: str, detail: str = "", *, ready: bool | None = None) -> None:
        """Enter a state, in health and metrics; ready, unready, or as before. Only a working worker shows its share."""
        if ready is not None:
            self.is_ready = ready
        self._state = f"{state}: {detail}" if detail else state
        if self._share is not None:
            MAIN_LOOP.end(self._share)
            self._share = None
        metrics.STATE.show({(name,): float(name == state) for name in metrics.STATES})
        if state != "working":
            self._observer.own((), ())
            metrics.LANES.forget()
            metrics.PARKED.forget()
            metrics.FILLED.forget()

    def working(self, cycle: Cycle, *, assigned: bool, share_seconds: float, unreadable: str = "") -> None:
        """Enter the state that follows from a cycle. A worker that owns nothing works only if the group has assigned it
        an empty share; the group answers within `share_seconds`.
        """
        silence, owned, parked = self._observer.silence(), cycle.owned, cycle.parked()
        if silence:
            self.enter("waiting", silence, ready=False)
        elif not assigned:
            self._wait_for_share(share_seconds)
        else:
            self._observer.own(owned.inputs, owned.lanes)
            detail = f"{len(owned.inputs)} inputs, {len(owned.lanes)} lanes"
            keys = sum(waiting.keys for waiting in cycle.waiting.values())
            near = cycle.parking_filled >= NEAR
            told = (
                f"{detail}, {len(parked)} parked" if parked else detail,
                f"{keys} keys parked" if keys else "",
                f"paused by an operator: {', '.join(sorted(cycle.paused))}" if cycle.paused else "",
                "a partition is about to wait: `parked list`" if near else "",
                unreadable,
            )
            self.enter("working", "; ".join(filter(None, told)), ready=not parked and not unreadable and not near)
            metrics.PARKED.set(len(parked))
            metrics.FILLED.set(cycle.parking_filled)
            metrics.LANES.set(len(owned.lanes))

    def standing_by(self) -> None:
        """Enter the state of a worker while all slots are taken."""
        if silence := self._observer.silence():
            self.enter("waiting", silence, ready=False)
        else:
            self.enter("standby", "all slots are taken", ready=True)

    def _wait_for_share(self, seconds: float) -> None:
        share, self._share = self._share, None  # the same wait goes on
        self.enter("waiting", "the group has not assigned this worker a share yet", ready=False)
        self._share = share or MAIN_LOOP.begin("its group, which waits for members that do not answer", seconds)
