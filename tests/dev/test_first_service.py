"""docs/your-first-service.md: every command is run, every difference applied, every output compared."""

import re

import pytest

from dev.servers.places import free_port
from tests.dev.pages import blocks, compare, paste
from tests.dev.tree import ROOT, Tree

pytestmark = pytest.mark.proof

PAGE = (ROOT / "docs/your-first-service.md").read_text()
BLOCKS = blocks(PAGE)
PORT = str(free_port())
SECONDS_MAX = 400


def run(tree: Tree, script: str) -> str:
    """Type commands, without the clone and with another port: the page's may be taken."""
    return paste(tree, re.sub(r"^git clone .*$", "", script, flags=re.MULTILINE).replace("8003", PORT), SECONDS_MAX)


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
    assert [kind for kind, _ in BLOCKS].count("diff") == 7
    assert tree.git("diff", "--stat", before) == "", "the service is put away, and nothing is left of it"


def test_a_line_that_is_not_printed_is_noticed() -> None:
    compare("one\n...\nthree ... five", "one\ntwo\nthree four five")
    for expected in ("seven", "three\none", "three ... six"):
        with pytest.raises(AssertionError, match="does not follow"):
            compare(expected, "one\ntwo\nthree four five")
