"""A test that fails and then passes is a finding: the closing lines of `.ci/run` name it, with its log."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
FINDINGS = ROOT / ".ci" / "findings"

FLAKY = """
import logging, pathlib

def test_that_fails_once(capsys):
    first = pathlib.Path(__file__).with_name("ran")
    logging.getLogger().warning("the broker was late")
    if not first.exists():
        first.touch()
        assert 1 == 2, "a reason"

def test_that_passes():
    pass
"""


def run(folder: Path, report: str, *more: str) -> int:
    """Run the tests of `folder` as `.ci/run` does."""
    words = [sys.executable, "-m", "pytest", "-q", "test_flaky.py", f"--junitxml={report}", *more]
    options = ["--rootdir=.", "--override-ini=junit_logging=all"]
    return subprocess.run([*words, *options], cwd=folder, capture_output=True, check=False).returncode


def findings(folder: Path) -> str:
    """Return the closing lines."""
    words = [sys.executable, str(FINDINGS), str(folder / "first"), str(folder / "second")]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_what_fails_and_then_passes_is_told_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "test_flaky.py").write_text(FLAKY)

    assert run(tmp_path, "first/tests.xml") == 1
    assert run(tmp_path, "second/tests.xml", "--last-failed") == 0

    told = findings(tmp_path)
    assert told.startswith("Findings: 1 test failed")
    assert "test_flaky::test_that_fails_once: failed, passed the second time" in told
    assert "a reason" in told
    assert "the broker was late" in told
    assert "test_that_passes" not in told


def test_each_python_that_is_promised_is_tried() -> None:
    """There is no gap between the oldest that `pip` accepts and the one that runs this."""
    (told,) = re.findall(r"^promised=\((.*)\)$", (FINDINGS.parent / "pythons").read_text(), re.MULTILINE)
    versions = [int(version.removeprefix("3.")) for version in told.split()]
    (oldest,) = re.findall(r'^requires-python = ">=3\.(\d+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)

    assert versions == list(range(int(oldest), versions[-1] + 1))
    assert versions[-1] >= max(14, sys.version_info.minor)
    assert ".ci/pythons" in (FINDINGS.parent / "run").read_text()


def test_nothing_is_told_where_nothing_failed(tmp_path: Path) -> None:
    (tmp_path / "test_flaky.py").write_text(FLAKY)
    (tmp_path / "ran").touch()

    assert run(tmp_path, "first/tests.xml") == 0
    assert findings(tmp_path) == ""
