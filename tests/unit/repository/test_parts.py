"""What `make without-demo` and `make without-proof` leave needs nothing that they take.

Here the lists alone are looked at, in a second. `tests/dev` makes such copies, and runs all checks in them.
"""

import re
import subprocess
from pathlib import Path

import pytest

from dev.without import files, parts
from tests.dev.tree import modules

ROOT = Path(__file__).parents[3]
PARTS = {name: files(getattr(parts(), name).files) for name in ("demo", "proof")}


@pytest.mark.parametrize("part", [name for name, going in PARTS.items() if going])
def test_no_test_that_is_left_imports_what_goes(part: str) -> None:
    going = set(PARTS[part])
    imported = re.compile(rf"^\s*(?:from|import) {modules(going)}", re.MULTILINE)
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    left = [path for path in map(Path, listed.split()) if path not in going and (ROOT / path).exists()]

    assert len(left) > 100
    assert [
        f"{path}: {found[0].strip()}" for path in left if (found := imported.search((ROOT / path).read_text()))
    ] == []
