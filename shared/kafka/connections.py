"""What librdkafka's own statistics say of each broker that no metric of ours does: how far away it is, and whether the
connection holds.

They are those of the observer's client, which asks every broker that leads one of the inputs, every three seconds. The
producer has more to tell (queues, throttling), and nothing takes it while it is idle: it is polled by its transactions
alone, and statistics that nobody takes stay in its memory, 10 kB each, for ever. What they would say is in the times of
its transactions.
"""

from typing import Any

import msgspec

from ..telemetry import metrics

INTERVAL_MS = 3_500
"""More than between two looks of the observer, so that each has requests to tell of; less than a request may take, so
that a client that reaches only some brokers, and is replaced after one look, has told of them.
"""

BROKERS_MAX = 100
"""Of a larger cluster the first ones are shown."""

STATES = {"UP": 1.0, "DOWN": 0.0, "TRY_CONNECT": 0.0, "CONNECT": 0.0, "SSL_HANDSHAKE": 0.0}
"""Of a connection. INIT is left out: none was needed yet. So are the others, which last for one request."""


class _Window(msgspec.Struct):
    cnt: int
    p99: int
    """Microseconds."""


class _Broker(msgspec.Struct):
    nodeid: int
    source: str
    state: str
    disconnects: int
    rtt: _Window


class _Statistics(msgspec.Struct):
    brokers: dict[str, _Broker]


_decode = msgspec.json.Decoder(_Statistics).decode


class Connections:
    """The connections of one client, which may be replaced."""

    def __init__(self) -> None:
        self._broken: dict[int, int] = {}

    def settings(self) -> dict[str, Any]:
        """Return what a new client is told, and forget the last one."""
        self._broken = {}
        return {"statistics.interval.ms": INTERVAL_MS, "stats_cb": self.see}

    def see(self, statistics: str) -> None:
        """Show what the client tells; another form of it tells nothing."""
        try:
            told = _decode(statistics).brokers.values()
        except msgspec.MsgspecError:
            return
        # One that is only configured has no number yet; a logical one, such as a coordinator, is one of the others.
        found = sorted((one for one in told if one.source == "learned"), key=lambda one: one.nodeid)[:BROKERS_MAX]
        metrics.ROUND_TRIP.show({(str(one.nodeid),): one.rtt.p99 / 1e6 for one in found if one.rtt.cnt})
        metrics.CONNECTED.show({(str(one.nodeid),): STATES[one.state] for one in found if one.state in STATES})
        for one in found:
            broke = metrics.DISCONNECTS.labels(str(one.nodeid))
            broke.inc(max(0, one.disconnects - self._broken.get(one.nodeid, 0)))
            self._broken[one.nodeid] = one.disconnects
