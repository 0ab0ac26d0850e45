"""A copy of this tree, for tests that do in it what a page says."""

import shutil
from collections.abc import Iterator

import pytest

from dev.servers.places import run_directory
from tests.dev.tree import Tree


@pytest.fixture
def tree() -> Iterator[Tree]:
    """A copy with only the demo's services; its servers are taken down."""
    # Not pytest's: PostgreSQL may run as `nobody`, who has to reach its programs in the environment of the tree.
    directory = run_directory()
    try:
        tree = Tree(directory / "exactly-once")
        tree.without_own_services()
        yield tree
        tree.make("servers-down")
    finally:
        shutil.rmtree(directory)
