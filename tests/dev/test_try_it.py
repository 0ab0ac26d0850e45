"""The quickstart's commands, pasted into a shell as they stand."""

import re

import pytest

from dev.servers.places import free_port
from dev.servers.process import environment
from tests.dev.pages import blocks, paste
from tests.dev.tree import ROOT, Tree

pytestmark = pytest.mark.proof

SECONDS_MAX = 400


def pasted() -> str:
    """Paste the page's blocks in order, with other ports: the page's may be taken."""
    page = (ROOT / "docs" / "quickstart.md").read_text()
    text = "".join(typed for kind, typed in blocks(page) if kind == "sh")
    for port in ("8000", "8001", "8002"):
        text = text.replace(port, str(free_port()))
    bank = str(free_port())
    text = text.replace("-m dev.bank ", f"-m dev.bank --port {bank} ")
    return f"export PAYMENT_BANK_URL=http://127.0.0.1:{bank}\n{text}"


@pytest.mark.timeout(2 * SECONDS_MAX)
def test_an_order_is_confirmed(tree: Tree) -> None:
    output = paste(tree, pasted(), SECONDS_MAX, env=environment())
    placed, confirmed = (output.index(f'"state":"{state}"') for state in ("PLACED", "CONFIRMED"))
    assert placed < confirmed
    assert "the two systems agree" in output
    assert "Nothing is wrong." in output
    assert "curl:" not in output
    for logged in ("api_listening", "topics_checked", "worker_started", "assigned"):
        assert logged not in output, "logs mix into what the reader looks for"


def test_what_is_installed_is_not_listed() -> None:
    """It would be 69 lines before the first that matters; failures still show."""
    installs = re.findall(r"(?:pip install|pip sync)\b[^\n]*", (ROOT / "Makefile").read_text())
    assert len(installs) == 3
    assert [line for line in installs if "--quiet" not in line] == []


def test_page_one_says_how_to_get_it_and_what_the_licence_is_and_deletes_nothing() -> None:
    page = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    assert blocks[0].startswith("git clone ")
    assert re.search(r"The licence is\s.+\(LICENSE\)\.$", page, re.MULTILINE)
    assert [block for block in blocks if "without-demo" in block] == [], "a block is pasted as a whole"
