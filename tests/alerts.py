"""Asks Prometheus's promtool which shipped alerts fire if a process shows a page of metrics for a quarter of an hour;
`make alerts-test` brings promtool.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

from shared.testing import SECONDS_MAX

RULES = Path(__file__).parents[1] / "compose" / "observe" / "alerts.yml"
PROMTOOL = shutil.which("promtool")
ALERTS = re.findall(r"^ +- alert: (\w+)$", RULES.read_text(), re.MULTILINE)
LABELS = 'service="s",process="worker",instance="w"'
"""Labels that prometheus.yml adds to every metric."""
_METRIC = re.compile(r"^(\w+)(?:{(.*)})? ([^\s#].*)$", re.MULTILINE)


def firing(page: str, place: Path, before: str = "") -> set[str]:
    """Name the alerts that fire. Labels of the process are put on each metric, as a scrape does. A counter on the page
    `before`, or one of a histogram, keeps that value until some minutes before the end. A value may be a series of its
    own, in promtool's words.
    """
    assert PROMTOOL is not None
    counters = ("_total", "_bucket", "_count", "_sum")
    earlier = {(name, labels): value for name, labels, value in _METRIC.findall(before) if name.endswith(counters)}
    series = [{"series": f"up{{{LABELS}}}", "values": f"{int(bool(page))}x80"}]
    for name, labels, value in _METRIC.findall(page):
        both = f"{labels},{LABELS}" if labels else LABELS
        values = value if "x" in value else f"{float(value)}x80"
        if first := earlier.get((name, labels)):
            values = f"{float(first)}x49 {float(value)}x30"
        series.append({"series": f"{name}{{{both}}}", "values": values})
    wanted = [{"eval_time": "15m", "alertname": alert, "exp_alerts": []} for alert in ALERTS]
    tests = [{"interval": "15s", "input_series": series, "alert_rule_test": wanted}]
    file = place / "rules.json"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": tests}))
    done = subprocess.run(
        (PROMTOOL, "test", "rules", file), capture_output=True, text=True, check=False, timeout=SECONDS_MAX
    )
    output = done.stdout + done.stderr
    # Nothing is expected to fire: whatever does is a difference that promtool tells.
    found = set(re.findall(r"alertname: ?(\w+), time", output))
    assert (done.returncode == 0) == (not found), output
    return found
