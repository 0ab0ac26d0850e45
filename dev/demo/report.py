"""The result of a run, in a few lines: how often it was struck, its recovery times, its throughput."""

from collections import Counter
from collections.abc import Mapping, Sequence

import httpx
from rich.table import Table

from dev.balance.topics import Partition
from dev.demo.chaos import Struck
from dev.demo.load import Load
from dev.demo.observer import Observer
from dev.demo.stage import Stage
from dev.silence import quantile, silence

# A kill within this time of a freeze is not measured by itself: the silence would be that of both. A frozen worker of
# any service counts, since the transaction that it has open keeps those from reading who consume it.
FREEZE_REACH_SECONDS = 3.0
BANK_SECONDS = 30.0
SERVERS = {"kill kafka": "a broker", "kill postgres": "PostgreSQL"}


def report(load: Load, struck: Sequence[Struck], observer: Observer, system: Stage) -> Table:
    """Put the numbers together."""
    table = Table(title="What happened", title_style="bold", title_justify="left", box=None, pad_edge=False)
    table.show_header = False
    table.add_column(no_wrap=True)
    table.add_column()
    kills = [s for s in struck if s.blow.kind == "kill" and s.hit]
    freezes = [s for s in struck if s.blow.kind == "freeze" and s.hit]
    outages = [s for s in struck if s.blow.kind in SERVERS or (s.blow.kind == "bank" and s.hit)]
    table.add_row("killed (SIGKILL)", f"{len(kills)}: {_kinds(kills)}")
    if servers := [SERVERS[s.blow.kind] for s in outages if s.blow.kind in SERVERS]:
        table.add_row("servers killed", ", ".join(servers))
    if freezes:
        seconds = f"{freezes[0].blow.seconds:.0f} s"
        table.add_row("frozen (SIGSTOP)", f"{_kinds(freezes)} for {seconds}, beyond every timeout, then thawed")
    table.add_row("the bank", _bank(system.bank, outages))
    exits = system.supervisor.causes()
    table.add_row("ended by themselves", ", ".join(f"{what} ({n})" for what, n in exits.items()) or "none")
    counts = load.counts
    table.add_row(
        "customers",
        f"{counts['accepted']:,} orders, {counts['duplicates']:,} of them sent twice; {counts['cancelled']:,} "
        "cancelled, "
        f"{counts['too late to cancel']:,} too late; {counts['repeated']:,} requests repeated for want of an answer",
    )
    decided = sum(observer.counts[name] for name in ("OrderConfirmed", "OrderRejected", "OrderCancelled"))
    events = sum(observer.counts.values())
    table.add_row("orders", _outcomes(observer))
    table.add_row(
        "throughput",
        f"{decided / load.seconds:,.0f} orders/s as they were placed, {events / load.seconds:,.0f} events/s",
    )
    latencies = observer.latencies
    table.add_row(
        "latency",
        f"p50 {_ms(quantile(latencies, 0.50))}, p99 {_ms(quantile(latencies, 0.99))}, "
        f"longest {_ms(max(latencies, default=0))}: from an order's commit until its OrderConfirmed can be read, "
        "kills, freezes and the silent bank included",
    )
    for text, value in _silences(kills, freezes, outages, observer.arrivals):
        table.add_row(text, value)
    return table


KINDS = {"worker": "workers", "caller": "callers", "api": "APIs"}


def _kinds(blows: Sequence[Struck]) -> str:
    """Count the victims by the kind of process, which is the second word of a name."""
    counts = Counter(struck.blow.victim.split()[1] for struck in blows)
    return ", ".join(f"{counts[kind]} {words}" for kind, words in KINDS.items() if counts[kind])


def _bank(url: str, outages: Sequence[Struck]) -> str:
    """Say how the bank has failed."""
    faults = httpx.get(f"{url}/faults", timeout=BANK_SECONDS, trust_env=False).raise_for_status().json()
    away = [f"silent for {s.blow.seconds:.0f} s" for s in outages if s.blow.kind == "bank"]
    named = {
        "slow": "answered late",
        "error": "said 500",
        "in use": "said 409",
        "cut before": "cut the connection",
        "cut after": "booked and cut the connection",
    }
    failed = [f"{words} {faults[fault]:,} times" for fault, words in named.items() if faults.get(fault)]
    return "; ".join([*away, ", ".join(failed)]) if failed else "; ".join(away) or "did not fail"


def _outcomes(observer: Observer) -> str:
    names = {"OrderConfirmed": "confirmed", "OrderRejected": "rejected", "OrderCancelled": "cancelled"}
    return ", ".join(f"{observer.counts[event]:,} {word}" for event, word in names.items())


def _silences(
    kills: Sequence[Struck],
    freezes: Sequence[Struck],
    outages: Sequence[Struck],
    arrivals: Mapping[Partition, Sequence[float]],
) -> list[tuple[str, str]]:
    """Measure recoveries by the silence of the partitions of the victim's topic."""
    workers = [s for s in kills if not s.blow.victim.endswith(" api")]
    apart = [kill for kill in workers if not any(_overlap(kill, other) for other in (*freezes, *outages))]
    freezes = [freeze for freeze in freezes if not any(_overlap(freeze, outage) for outage in outages)]
    rows = []
    for text, blows in (("slowest recovery", apart), ("slowest hand-over", freezes)):
        measured = [s for blow in blows if (s := silence(arrivals, _topic(blow), blow.at)) is not None]
        if measured:
            of = "kill far from freezes and outages" if blows is apart else "freeze"
            rows.append(
                (
                    text,
                    f"{max(measured):.1f} s, median {quantile(measured, 0.5):.1f} s: longest silence of a partition of "
                    f"the victim's topic after a {of} ({len(measured)} measured)",
                )
            )
    return rows


def _topic(struck: Struck) -> str:
    return f"{struck.blow.victim.split()[0]}.events"


def _overlap(blow: Struck, longer: Struck) -> bool:
    begin, end = longer.at - FREEZE_REACH_SECONDS, longer.at + longer.blow.seconds + FREEZE_REACH_SECONDS
    return begin <= blow.at + blow.blow.seconds and blow.at <= end


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"
