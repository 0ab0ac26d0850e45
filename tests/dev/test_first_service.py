"""docs/your-first-service.md, carried out: every command is run, every difference applied, every output compared."""

import os
import re
import signal
import subprocess

import pytest

from dev.servers.places import free_port
from tests.dev.tree import ROOT, Tree

pytestmark = pytest.mark.proof

PAGE = (ROOT / "docs/your-first-service.md").read_text()
BLOCKS = re.findall(r"^```(sh|diff|text)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
SECONDS_MAX = 400


def run(tree: Tree, script: str) -> str:
    """Run commands as a terminal does; return what they write."""
    script = re.sub(r"^git clone .*$", "", script, flags=re.MULTILINE).replace("8003", str(free_port()))
    identity = {f"GIT_{who}_{what}": "me@here" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTEST"))}
    shell = subprocess.Popen(
        ["bash", "-c", f"set -e\n{script}"],
        cwd=tree.root,
        env=env | identity,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with shell:
        try:
            output, _ = shell.communicate(timeout=SECONDS_MAX)
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


@pytest.mark.timeout(1_200)
def test_the_page_can_be_followed_to_its_end(tree: Tree) -> None:
    before = tree.git("rev-parse", "HEAD").strip()
    output = ""
    for kind, text in BLOCKS:
        if kind == "sh":
            output = run(tree, text)
        elif kind == "diff":
            (tree.root / "the.diff").write_text(text)
            run(tree, "git apply the.diff; rm the.diff")
        else:
            compare(text, output)
    assert [kind for kind, _ in BLOCKS].count("diff") == 5
    assert tree.git("diff", "--stat", before) == "", "the service is put away, and nothing is left of it"


def test_a_line_that_is_not_printed_is_noticed() -> None:
    compare("one\n...\nthree ... five", "one\ntwo\nthree four five")
    for expected in ("seven", "three\none", "three ... six"):
        with pytest.raises(AssertionError, match="does not follow"):
            compare(expected, "one\ntwo\nthree four five")
