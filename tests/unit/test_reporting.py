"""What of the dead letters counts towards the brake, and how they are logged."""

import pytest
from structlog.testing import capture_logs

from shared.cycle import Progress
from shared.errors import Brake, HandlerTooSlow, Malformed, Reject
from shared.events import Envelope
from shared.ports import Input, Letter, Record
from shared.reporting import UNREAD_LOGGED_MAX, Reporting
from tests.faults.stage import StageSettings


def settings(most: int) -> StageSettings:
    return StageSettings.model_validate(
        {
            "kafka_bootstrap_servers": "none:1",
            "database_url": "postgresql://none/none",
            "set_aside_per_minute_max": most,
        }
    )


def letter(offset: int, error: Exception, kind: str | None) -> Letter:
    record = Record(Input("asked", 0), offset, b"key", b"", ())
    return Letter(record, 0, Envelope("id", "test", kind, 1, "", "key", b"") if kind else None, error)


def test_who_may_write_to_a_topic_stops_nobody_with_junk() -> None:
    reporting = Reporting(settings(5), "tally")
    with capture_logs() as lines:
        for n in range(3 * UNREAD_LOGGED_MAX):
            reporting.report(Progress(received=1, set_aside=[letter(n, Malformed("no event"), None)]), 0)
    each = [line for line in lines if line["event"] == "set_aside"]
    more = [line for line in lines if line["event"] == "set_aside_unread"]
    assert len(each) == UNREAD_LOGGED_MAX
    assert len({str(line) for line in more}) == 1, "the same line, which is folded"


@pytest.mark.parametrize("error", [Reject("no"), HandlerTooSlow()])
def test_what_handlers_fail_for_counts(error: Exception) -> None:
    reporting = Reporting(settings(5), "tally")
    letters = [letter(n, error, "Asked") for n in range(5)]
    junk = letter(9, Malformed("no event"), None)
    reporting.report(Progress(set_aside=[*letters, junk]), 0)
    with pytest.raises(Brake, match="SET_ASIDE_PER_MINUTE_MAX = 5"):
        reporting.report(Progress(set_aside=[junk, letter(10, error, "Asked")]), 0)
