"""What an order costs is told by kind of process, and the workers' metrics by the names that they have."""

from collections import Counter

from prometheus_client import generate_latest

from dev.bench.meter import CYCLES, HANDLED, RECEIVED, Spent, counters
from shared.telemetry import metrics


def test_the_counters_are_those_that_a_worker_exposes() -> None:
    before = counters(generate_latest().decode())
    metrics.CYCLE.observe(0.01)
    metrics.RECEIVED.inc(3)
    metrics.HANDLED.inc(2)
    after = counters(generate_latest().decode())

    assert {name: after[name] - before[name] for name in after} == {CYCLES: 1, RECEIVED: 3, HANDLED: 2}


def test_an_order_costs_what_the_system_spent_without_the_client_and_the_third_party() -> None:
    ours = {"API": 1.0, "workers": 2.0, "callers": 6.0, "broker": 3.0, "PostgreSQL": 4.0}
    cpu = {**ours, "client": 5.0, "bank": 7.0}
    spent = Spent(10.0, cpu, Counter({CYCLES: 500, RECEIVED: 2_000, HANDLED: 1_000}))

    told = {figure.what: (figure.value, figure.unit) for figure in spent.figures("latency", "it", 1_000)}

    assert told["it: CPU per order, everything"] == (16.0, "ms")
    assert told["it: CPU per order, client"] == (5.0, "ms")
    assert told["it: CPU per order, bank"] == (7.0, "ms")
    assert told["it: cycles of all workers"] == (50.0, "1/s")
    assert told["it: records consumed in a cycle"] == (4.0, "records")
    assert told["it: of them events that took effect"] == (2.0, "events")


def test_workers_without_a_cycle_divide_by_nothing() -> None:
    cpu = dict.fromkeys(("API", "workers", "callers", "broker", "PostgreSQL", "client", "bank"), 0.0)
    assert len(list(Spent(1.0, cpu, Counter()).figures("latency", "it", 1))) == 8
