"""Counts a worker's recoveries; if there are too many it ends, and reports their causes."""

from collections import Counter, deque

from ..errors import Fenced, RecoveryNeeded, TooManyRecoveries
from ..telemetry import metrics
from ..telemetry.failures import LOGGED_MAX
from ..telemetry.metrics import log
from .minute import Minute

FENCED_PER_MINUTE_MAX = 5
"""A frozen broker that wakes may make a worker's client fence itself, once; more means that another client does it."""

CAUSE_MAX, CAUSES_MAX, CAUSES_KEPT = 300, 5, 1_000
"""Characters of a recovery's cause; number of causes named, the most frequent first; number kept."""


class Recoveries:
    """Counts the recoveries of one worker."""

    def __init__(self, per_minute_max: int, group: str) -> None:
        self._per_minute_max = per_minute_max
        self._group = group
        self._counted = Minute()
        self._fences = Minute()
        self._causes: deque[str] = deque(maxlen=CAUSES_KEPT)

    def count(self, doubt: RecoveryNeeded) -> None:
        """Count a recovery for `doubt`. Raises `TooManyRecoveries`."""
        cause = type(doubt).__name__
        metrics.RECOVERIES.labels(cause).inc()
        log.warning("recovery", cause=cause, detail=str(doubt)[:LOGGED_MAX])
        if not doubt.counted:
            return
        count = self._counted.count()
        self._causes.append(str(doubt)[:CAUSE_MAX])
        if count > self._per_minute_max:
            causes = Counter(list(self._causes)[-count:]).most_common(CAUSES_MAX)
            told = "; ".join(f"{times} times: {cause}" for cause, times in causes)
            raise TooManyRecoveries(
                f"more than {self._per_minute_max} recoveries in a minute; {told}; the last one: {doubt}"
            )

    def fenced(self, fenced: Fenced) -> None:
        """Count a recovery that needs new clients. Raises `TooManyRecoveries` if these do not help."""
        metrics.RECOVERIES.labels(type(fenced).__name__).inc()
        if self._fences.count() > FENCED_PER_MINUTE_MAX:
            raise TooManyRecoveries(
                f"fenced more than {FENCED_PER_MINUTE_MAX} times in a minute, although the slot is this worker's own. "
                f"A process that does not use this database may have the same name in group {self._group}: the "
                f"last one: {fenced}"
            )
