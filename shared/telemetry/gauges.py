"""Gauges that are absent while their value is unknown: 0 would suggest that all is well."""

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

LASTS_SECONDS = 20.0
"""A value not measured again for this long is unknown. Measurements come every few seconds."""


class Known(Collector):
    """A gauge whose values are set all at once, and forgotten when they are no longer measured."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: tuple[str, ...] = (),
        *,
        lasts: float = LASTS_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._lasts = lasts
        self._clock = clock
        self._found: tuple[float, Mapping[tuple[str, ...], float]] = (0.0, {})
        registry.register(self)

    def set(self, value: float) -> None:
        """Set the one value of a gauge without labels."""
        self.show({(): value})

    def show(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Show these values, by their labels, and no others."""
        self._found = (self._clock(), values)

    def forget(self) -> None:
        """Show nothing until the next value."""
        self._found = (0.0, {})

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the known values."""
        since, values = self._found
        family = GaugeMetricFamily(self._name, self._documentation, labels=self._labels)
        if self._clock() - since < self._lasts:
            for labels, value in values.items():
                family.add_metric(labels, value)
        yield family

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield its name without values."""
        yield GaugeMetricFamily(self._name, self._documentation, labels=self._labels)
