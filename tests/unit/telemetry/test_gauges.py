"""An unknown value is not shown: a gauge at 0 would say that all is well."""

from prometheus_client import CollectorRegistry, generate_latest

from shared.telemetry.gauges import Known


def test_a_gauge_shows_what_is_known_and_only_as_long_as_it_is() -> None:
    registry, now = CollectorRegistry(), [0.0]
    gauge = Known("lag", "How much", ("topic",), lasts=15.0, clock=lambda: now[0], registry=registry)

    def shown() -> list[str]:
        return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]

    assert shown() == []
    gauge.show({("a",): 3.0, ("b",): 0.0})
    assert shown() == ['lag{topic="a"} 3.0', 'lag{topic="b"} 0.0']
    gauge.show({("b",): 1.0})
    assert shown() == ['lag{topic="b"} 1.0'], "what is not shown any more is gone"
    now[0] = 15.0
    assert shown() == [], "nobody has measured it for long"
    gauge.show({("b",): 1.0})
    gauge.forget()
    assert shown() == []
    assert "# TYPE lag gauge" in generate_latest(registry).decode(), "its name is there all the time"
