"""What the README tells a newcomer to type, typed."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dev.servers.places import free_port
from dev.servers.process import environment

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 240

READY = (
    "for port in {ports}; do curl -sS -o log --retry 60 --retry-delay 1 --retry-connrefused localhost:$port/docs; done"
)
CONFIRMED = "timeout 60 bash -c 'until curl -sS localhost:{ports[0]}/orders | grep CONFIRMED; do sleep 0.1; done'"


def script(tmp_path: Path) -> str:
    """The README's commands, with ports that are free, and with the patience of somebody who looks at the terminal."""
    section = (ROOT / "README.md").read_text().split("## Try it")[1].split("\n## ")[0]
    begin, order, end = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[:3]
    ports = [free_port() for _ in range(3)]
    waits = [wait.format(ports=ports) for wait in (READY.replace("{ports}", " ".join(map(str, ports))), CONFIRMED)]
    text = "\n".join(["set -e", begin, waits[0], order, waits[1], end, "wait"])
    for number, port in enumerate(ports):
        text = text.replace(f"800{number}", str(port))
    text = text.replace(".venv/bin/python", sys.executable)
    servers = f"{sys.executable} -m dev.servers {{}} --root {tmp_path}"
    return text.replace("make servers-down", servers.format("down")).replace("make servers", servers.format("up"))


@pytest.mark.timeout(2 * SECONDS_MAX)
def test_an_order_is_confirmed(tmp_path: Path) -> None:
    shell = subprocess.Popen(
        ["bash", "-c", script(tmp_path)],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(timeout=SECONDS_MAX)
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
        down = [sys.executable, "-m", "dev.servers", "down", "--root", str(tmp_path)]
        subprocess.run(down, cwd=ROOT, check=True, capture_output=True)
    assert shell.returncode == 0, output
    assert '"state":"PLACED"' in output
    assert '"state":"CONFIRMED"' in output
    assert "the two systems agree" in output
    assert "Nothing is wrong." in output
