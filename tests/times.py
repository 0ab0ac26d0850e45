"""Prints where a run's time went, if it took a minute: the ten slowest tests and each folder's sum."""

import time
from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any

import pytest

SLOWEST = 10
SECONDS_MIN = 60.0


class Times:
    """Adds up the reports of a run; a test has up to three, for its fixtures and itself."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._tests: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add what a part of a test took."""
        self._tests[report.nodeid] += report.duration

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Write both tables."""
        if time.monotonic() - self._began < SECONDS_MIN:
            return
        folders: defaultdict[str, list[float]] = defaultdict(list)
        for test, seconds in self._tests.items():
            folders[str(PurePosixPath(test.split("::", 1)[0]).parent)].append(seconds)
        slowest = sorted(self._tests.items(), key=lambda pair: -pair[1])[:SLOWEST]
        terminalreporter.section("where the time went")
        for test, seconds in slowest:
            terminalreporter.write_line(f"{seconds:8.1f} s  {test}")
        for folder, each in sorted(folders.items()):
            terminalreporter.write_line(f"{sum(each):8.1f} s  in {len(each):4} tests of {folder}")
        elapsed = time.monotonic() - self._began
        terminalreporter.write_line(f"{sum(self._tests.values()):8.1f} s  in all, within {elapsed:.0f} s")
