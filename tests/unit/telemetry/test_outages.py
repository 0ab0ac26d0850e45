"""An outage is logged once at its beginning and once at its end."""

import pytest

from shared.telemetry import outages
from shared.telemetry.outages import Outage


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []

    def warning(self, event: str, **facts: object) -> None:
        self.lines.append((event, facts))


def test_an_outage_has_one_beginning_and_one_end_whoever_notices_it(monkeypatch: pytest.MonkeyPatch) -> None:
    log, now = Log(), [100.0]
    monkeypatch.setattr(outages, "log", log)
    outage = Outage("kafka", lambda: now[0])

    outage.answered("worker")
    outage.missed("worker", "refused")
    outage.missed("observer", "no answer")
    for _ in range(100):
        outage.missed("worker", "refused")
    outage.answered("worker")
    assert [event for event, _ in log.lines] == ["kafka_unavailable"], "somebody misses it still"
    now[0] += 45
    outage.answered("observer")
    outage.answered("worker")

    assert [event for event, _ in log.lines] == ["kafka_unavailable", "kafka_available"]
    begin, end = (facts for _, facts in log.lines)
    assert (begin["detail"], begin["since"], end["seconds"]) == ("refused", end["since"], 45.0)
