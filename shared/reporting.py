"""What a cycle did, told in metrics and log; and the brakes when too much of it was to set aside."""

from shared import failures, telemetry
from shared.blame import EqualFailures
from shared.cycle import Progress
from shared.errors import Brake
from shared.minute import Minute
from shared.program import program
from shared.settings import Settings
from shared.telemetry import log


class Reporting:
    """Reports the cycles of one worker."""

    def __init__(self, settings: Settings, service: str) -> None:
        self._set_aside_max = settings.set_aside_per_minute_max
        self._service = service
        self._set_aside = Minute()
        self._equal_failures = EqualFailures(settings.equal_failures_max, program(service))

    def report(self, progress: Progress, seconds: float) -> None:
        """Report a cycle that had something to do and took so many seconds. Raises `Brake`."""
        _count(progress, seconds)
        _tell(progress, seconds)
        if progress.failed is not None:
            failures.log_batch(progress.failed, progress.failed_at, progress.received)
        for letter in progress.set_aside:
            failures.log_set_aside(letter.error, letter.record)
        self._equal_failures.note(progress.handled_types, progress.set_aside)
        if self._set_aside.count(len(progress.set_aside)) > self._set_aside_max:
            last = ": ".join(failures.describe(progress.set_aside[-1].error))[: failures.LOGGED_MAX]
            raise Brake(
                f"more than SET_ASIDE_PER_MINUTE_MAX = {self._set_aside_max} records were set "
                f"aside in a minute; the last one for {last}. Mend the handler or the producer, then restart; re-drive "
                f"with `{program(self._service)} dead-letters redrive --all`"
            )


def _count(progress: Progress, seconds: float) -> None:
    telemetry.CYCLE.observe(seconds)
    telemetry.RECEIVED.inc(progress.received)
    telemetry.HANDLED.inc(progress.handled)
    telemetry.DUPLICATES.inc(progress.duplicates)
    telemetry.SKIPPED.inc(progress.skipped)
    telemetry.SAID.inc(progress.said)
    telemetry.SET_ASIDE.inc(len(progress.set_aside))
    if progress.failed is not None:
        telemetry.ATTEMPTS_FAILED.inc()


def _tell(progress: Progress, seconds: float) -> None:
    """Tell a batch to whoever debugs."""
    log.debug(
        "batch",
        received=progress.received,
        handled=progress.handled,
        duplicates=progress.duplicates,
        skipped=progress.skipped,
        set_aside=len(progress.set_aside),
        said=progress.said,
        seconds=round(seconds, 4),
    )
