"""A page's commands, carried out in a copy of the tree, do what the page shows."""

import os
import re
import signal
import subprocess
from collections.abc import Mapping

from tests.dev.tree import Tree


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the blocks of a page: `sh`, `diff` or `text`, and their text."""
    return re.findall(r"^```(sh|diff|text)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def paste(tree: Tree, script: str, seconds: float, *, env: Mapping[str, str] | None = None) -> str:
    """Paste commands into a shell, as a reader does; return what they write. The shell must succeed.

    It reads them from where every program that it runs could read them away, as in a terminal; and it ends with the
    first that fails. It has `env`, or what the test has.
    """
    identity = {f"GIT_{who}_{what}": "me@here" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTEST"))}
    shell = subprocess.Popen(
        ["bash", "-e"],
        cwd=tree.root,
        env={**(ours if env is None else env), **identity},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with shell:
        try:
            output, _ = shell.communicate(script, timeout=seconds)
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, f"{script}\nended with {shell.returncode}:\n{output}"
    return output


def compare(expected: str, output: str) -> None:
    """Find each expected line in the output, one after the other; `...` stands for anything."""
    lines = iter(output.splitlines())
    for line in expected.splitlines():
        pattern = ".*".join(map(re.escape, line.split("...")))
        assert any(re.search(pattern, found) for found in lines), f"{line!r} does not follow in:\n{output}"
