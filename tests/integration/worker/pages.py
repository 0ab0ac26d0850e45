"""The page of metrics of a worker."""

import re
import urllib.request
from pathlib import Path

from tests.alerts import PROMTOOL, firing
from tests.faults.stage import Worker


def shown(worker: Worker) -> str:
    """Return the page."""
    address = f"http://127.0.0.1:{worker.order.settings.metrics_port}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        return str(answer.read().decode())


def values(worker: Worker, name: str) -> list[float]:
    """Return the values of a metric, for all labels."""
    return [float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", shown(worker), re.MULTILINE)]


def fires(worker: Worker, place: Path, before: str = "") -> set[str] | None:
    """Return the alerts that fire at the worker's metrics, now and `before`; None without promtool."""
    return firing(shown(worker), place, before) if PROMTOOL else None
