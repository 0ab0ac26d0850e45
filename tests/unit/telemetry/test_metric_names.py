"""Metrics of the library share one namespace, say what they count, and follow the conventions of Prometheus."""

import importlib
import pkgutil
import re
from pathlib import Path

from prometheus_client import REGISTRY, generate_latest
from prometheus_client.metrics_core import Metric

import shared

ROOT = Path(__file__).parents[3]
OTHERS = ("python_", "process_")
"""Metrics of the client library itself."""
NAMES = r"exactly_once_[a-z_]+"
SUFFIXES = ("_total", "_bucket", "_count", "_sum")


def families() -> list[Metric]:
    """Return the metrics of all modules of the library."""
    for module in pkgutil.walk_packages(shared.__path__, "shared."):
        importlib.import_module(module.name)
    return [family for family in REGISTRY.collect() if not family.name.startswith(OTHERS)]


def test_every_metric_has_the_namespace_and_a_help_text() -> None:
    found = families()
    assert len(found) > 20
    assert [family.name for family in found if not re.fullmatch(NAMES, family.name)] == []
    assert [family.name for family in found if len(family.documentation) < 10] == []


def test_counters_end_in_total_and_nothing_else_does() -> None:
    families()
    kinds = re.findall(r"^# TYPE (exactly_once_\w+) (\w+)$", generate_latest().decode(), re.MULTILINE)
    # The client shows, besides each counter and histogram, when it was made.
    shown = [(name, kind) for name, kind in kinds if not name.endswith("_created")]
    assert {kind for _, kind in shown} == {"counter", "gauge", "histogram"}
    assert [name for name, kind in shown if (kind == "counter") != name.endswith("_total")] == []


def test_dashboards_rules_and_pages_name_no_metric_that_does_not_exist() -> None:
    exposed = set(re.findall(r"^# TYPE (exactly_once_\w+) ", generate_latest().decode(), re.MULTILINE))
    exposed |= {family.name for family in families()}
    tables = set(re.findall(r'"(exactly_once_\w+)"', (ROOT / "shared/postgres/roles.py").read_text()))
    observe = ROOT / "compose/observe"
    for place in (*observe.glob("**/*.yml"), *observe.glob("**/*.json"), ROOT / "docs/deploying.md"):
        named = set(re.findall(rf"\b{NAMES}\b", place.read_text()))
        unknown = {name for name in named if re.sub(rf"({'|'.join(SUFFIXES)})$", "", name) not in exposed | tables}
        assert unknown - exposed == set(), place
