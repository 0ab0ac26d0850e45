"""Reports each cycle in metrics and log, and stops a worker that sets too many records aside."""

from collections.abc import Sequence

from ..configuration.program import program
from ..errors import TooManyDeadLetters
from ..postgres.blame import EqualFailures
from ..protocol.cycle import Progress
from ..protocol.ports import NewDeadLetter
from ..settings import Settings
from ..telemetry import failures, metrics
from ..telemetry.metrics import log
from .minute import Minute

UNREAD_LOGGED_MAX = 100
"""Per minute: a producer of junk must not fill a disk with log. Each record is kept, as a dead letter."""


class Reporting:
    """Reports the cycles of one worker."""

    def __init__(self, settings: Settings, service: str) -> None:
        self._set_aside_max = settings.dead_letters_per_minute_max
        self._service = service
        self._set_aside = Minute()
        self._unread = Minute()
        self._equal_failures = EqualFailures(settings.equal_failures_max, program(service))

    def report(self, progress: Progress, seconds: float) -> None:
        """Report a cycle that was not idle and took `seconds`. Raises `TooManyDeadLetters`."""
        _count(progress, seconds)
        _tell(progress, seconds)
        for parked in progress.parked:
            if parked.error is not None and not parked.aside:
                failures.log_parked(parked.error, parked.record)
        if progress.failed is not None and progress.failed_parked is not None:
            failures.log_parked(progress.failed, progress.failed_parked.record, progress.failed_parked.attempts + 1)
        elif progress.failed is not None:
            failures.log_batch(progress.failed, progress.failed_at, progress.received)
        # Only records for which a handler failed say something about the service. Records that are unreadable or not
        # events of this system never reach one: any producer of the topic can write them, so they must not stop us.
        failed = [dead_letter for dead_letter in progress.set_aside if dead_letter.envelope is not None]
        for dead_letter in failed:
            failures.log_set_aside(dead_letter.error, dead_letter.record)
        self._log_unread([dead_letter for dead_letter in progress.set_aside if dead_letter.envelope is None])
        self._equal_failures.note(progress.handled_types, failed)
        if self._set_aside.count(len(failed)) > self._set_aside_max:
            last = ": ".join(failures.describe(failed[-1].error))[: failures.LOGGED_MAX]
            raise TooManyDeadLetters(
                f"more than DEAD_LETTERS_PER_MINUTE_MAX = {self._set_aside_max} events for which a handler failed were "
                f"set aside in a minute; the last one for {last}. Fix the handler or the producer, then restart; "
                f"redrive with `{program(self._service)} dead-letters redrive --all`"
            )

    def _log_unread(self, dead_letters: Sequence[NewDeadLetter]) -> None:
        """Log each record that reached no handler, up to a limit per minute; then, that there are more."""
        for dead_letter in dead_letters:
            metrics.UNREAD.inc()
            if self._unread.count() <= UNREAD_LOGGED_MAX:
                failures.log_set_aside(dead_letter.error, dead_letter.record)
            else:  # the same line each time, which is counted instead of repeated
                log.warning(
                    "set_aside_unread",
                    topic=dead_letter.record.input.topic,
                    note=f"more than {UNREAD_LOGGED_MAX} records a minute that are not events of this system; each is "
                    "a dead letter: "
                    f"`{program(self._service)} dead-letters list --topic {dead_letter.record.input.topic}`",
                )


def _count(progress: Progress, seconds: float) -> None:
    metrics.CYCLE.observe(seconds)
    metrics.RECEIVED.inc(progress.received)
    metrics.HANDLED.inc(progress.handled)
    metrics.DUPLICATES.inc(progress.duplicates)
    metrics.SKIPPED.inc(progress.skipped)
    metrics.PUBLISHED.inc(progress.published)
    metrics.SET_ASIDE.inc(len(progress.set_aside))
    metrics.RECORDS_PARKED.inc(sum(not parked.aside for parked in progress.parked))
    if progress.failed is not None:
        metrics.ATTEMPTS_FAILED.inc()


def _tell(progress: Progress, seconds: float) -> None:
    """Log a batch at debug level."""
    log.debug(
        "batch",
        received=progress.received,
        handled=progress.handled,
        duplicates=progress.duplicates,
        skipped=progress.skipped,
        set_aside=len(progress.set_aside),
        published=progress.published,
        seconds=round(seconds, 4),
    )
