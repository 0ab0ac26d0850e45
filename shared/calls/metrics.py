"""The metrics of a caller."""

import math

from prometheus_client import Counter, Histogram

from ..telemetry.gauges import Known

ATTEMPTS = Counter(
    "exactly_once_calls_attempted",
    "Attempts by what they came to: done, never, again, given_up, stuck, overtaken or lost",
    ["destination", "outcome"],
)
SECONDS = Histogram(
    "exactly_once_call_seconds",
    "From the request to the whole answer, or to the reason why there is none",
    ["destination"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
WAITING = Known(
    "exactly_once_calls_waiting", "Calls that are not finished; absent while it is not known", ("destination",)
)
STUCK = Known(
    "exactly_once_calls_stuck",
    "Of the calls that are not finished, those at which the service's own code fails; absent while it is not known",
    ("destination",),
)
OLDEST = Known(
    "exactly_once_calls_oldest_seconds",
    "Age of the oldest call that is not finished; absent while it is not known",
    ("destination",),
)
UNDER_WAY = Known("exactly_once_calls_under_way", "Attempts of this caller now", ("destination",), lasts=math.inf)
RESTS = Known(
    "exactly_once_call_breaker_open",
    "1 while this caller leaves a destination alone that has failed several times in a row, else 0",
    ("destination",),
    lasts=math.inf,
)
