"""Dead letters by handlers count towards `TooManyDeadLetters`; junk does not."""

import pytest
from structlog.testing import capture_logs

from shared.errors import HandlerTooSlow, Malformed, Reject, TooManyDeadLetters
from shared.events import Envelope
from shared.protocol.cycle import Progress
from shared.protocol.ports import Input, NewDeadLetter, Record
from shared.worker.reporting import UNREAD_LOGGED_MAX, Reporting
from tests.faults.stage import StageSettings


def settings(most: int) -> StageSettings:
    return StageSettings.model_validate(
        {
            "kafka_bootstrap_servers": "none:1",
            "database_url": "postgresql://none/none",
            "dead_letters_per_minute_max": most,
        }
    )


def dead_letter(offset: int, error: Exception, kind: str | None) -> NewDeadLetter:
    record = Record(Input("asked", 0), offset, b"key", b"", ())
    return NewDeadLetter(record, 0, Envelope("id", "test", kind, 1, "", "key", b"") if kind else None, error)


def test_who_may_write_to_a_topic_stops_nobody_with_junk() -> None:
    reporting = Reporting(settings(5), "tally")
    with capture_logs() as lines:
        for n in range(3 * UNREAD_LOGGED_MAX):
            reporting.report(Progress(received=1, set_aside=[dead_letter(n, Malformed("no event"), None)]), 0)
    each = [line for line in lines if line["event"] == "set_aside"]
    more = [line for line in lines if line["event"] == "set_aside_unread"]
    assert len(each) == UNREAD_LOGGED_MAX
    assert len({str(line) for line in more}) == 1, "the same line, which is folded"


@pytest.mark.parametrize("error", [Reject("no"), HandlerTooSlow()])
def test_what_handlers_fail_for_counts(error: Exception) -> None:
    reporting = Reporting(settings(5), "tally")
    dead_letters = [dead_letter(n, error, "Asked") for n in range(5)]
    junk = dead_letter(9, Malformed("no event"), None)
    reporting.report(Progress(set_aside=[*dead_letters, junk]), 0)
    with pytest.raises(TooManyDeadLetters, match="DEAD_LETTERS_PER_MINUTE_MAX = 5"):
        reporting.report(Progress(set_aside=[junk, dead_letter(10, error, "Asked")]), 0)
