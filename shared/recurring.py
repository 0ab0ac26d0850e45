"""Recurring events: a service declares when, in the words of cron, and what.

    @service.recurring("nightly", cron="0 3 * * *", timezone="Europe/Berlin")
    def nightly(run: datetime) -> ReportDue:
        return ReportDue(day=run.date().isoformat())

Each run is one scheduled event (`shared.postgres.recurring`). Expressions are read by cronsim, which does what Debian's
cron does when clocks change.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from .events import Event
from .scheduling import RECURRING, YEARS_MAX, checked_name

RUNS_MAX = 100_000
"""Missed runs that are counted: those of two months, if there is one each minute."""


@dataclass(frozen=True)
class Recurrence:
    """One declaration."""

    name: str
    cron: str
    timezone: str
    event: Callable[[datetime], Event]
    """Makes the event of a run, which is given in the time zone."""

    @property
    def key(self) -> str:
        """The name under which its next run is scheduled."""
        return RECURRING + self.name

    @property
    def rule(self) -> str:
        """Expression and time zone, as the schedule keeps them."""
        return f"{self.cron} {self.timezone}"

    def after(self, moment: datetime) -> datetime:
        """Return the first run after `moment`. Raises `LookupError` if there is none within ten years."""
        for run in self._runs(moment):
            return run
        raise LookupError(f"recurring {self.name!r}: {self.cron!r} never fires within ten years after {moment}")

    def missed(self, due: datetime, now: datetime) -> int:
        """Return how many runs lie after `due` and not after `now`."""
        count = 0
        for run in self._runs(due):
            if run > now or count == RUNS_MAX:
                break
            count += 1
        return count

    def _runs(self, moment: datetime) -> Iterator[datetime]:
        from cronsim import CronSim  # optional

        for run in CronSim(self.cron, moment.astimezone(ZoneInfo(self.timezone))):
            if run - moment > YEARS_MAX:
                return
            yield run


def declared(name: str, cron: str, timezone: str, event: Callable[[datetime], Event]) -> Recurrence:
    """Return a declaration that was checked. Raises `TypeError`, `ValueError` or `ImportError` with a sentence."""
    made = Recurrence(checked_name(name), cron, timezone, event)
    of = f"recurring {name!r}"
    try:
        import cronsim
    except ImportError as error:
        raise ImportError(f"{of}: cron expressions need cronsim: install exactly-once[recurring]") from error
    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise ValueError(f"{of}: there is no time zone {timezone!r}; one is called Europe/Berlin, or UTC") from error
    try:
        made.after(datetime.now(UTC))
    except (cronsim.CronSimError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{of}: {cron!r} is no cron expression of five fields, such as '0 3 * * *': {error}"
        ) from error
    except LookupError as error:
        raise ValueError(f"{of}: {cron!r} never fires within ten years; is there such a day?") from error
    return made
