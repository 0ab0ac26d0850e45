"""`make test` and `make proof` share the tests, which are spread over processes."""

from pathlib import Path

import pytest

from tests import spread
from tests.faults.chosen import chosen

ROOT = Path(__file__).parents[3]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tests."""
    monkeypatch.setattr(spread, "TESTS", tmp_path / "tests")
    spread.together.cache_clear()
    (tmp_path / "tests" / "parts").mkdir(parents=True)
    return tmp_path / "tests" / "parts"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("def test_a(servers): ...", False),
        ('@pytest.fixture(scope="module")\ndef made(): ...', True),
        ("def test_a(breakable_servers): ...", True),
    ],
)
def test_a_file_stays_whole_where_its_tests_share_what_takes_long(files: Path, text: str, whole: bool) -> None:
    (files / "test_one.py").write_text(text)
    assert spread.together("tests/parts/test_one.py") is whole


def test_a_file_stays_whole_where_its_folder_shares_a_fixture(files: Path) -> None:
    (files / "test_one.py").write_text("def test_a(api): ...")
    (files / "conftest.py").write_text('@pytest.fixture(scope="module")\ndef api(): ...')
    assert spread.together("tests/parts/test_one.py")


def test_large_tests_run_two_at_a_time() -> None:
    names = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tests" / "dev").glob("test_*.py"))]
    assert {spread.piece(name, f"{name}::test_one") for name in names} == {"tests/dev/0", "tests/dev/1"}
    assert spread.piece(names[0], f"{names[0]}::test_one") == spread.piece(names[0], f"{names[0]}::test_two")


def test_a_cell_that_is_not_chosen_is_proof() -> None:
    first, second, third = chosen(["one", "two", "three"], "two")
    assert second == "two"
    assert [mark.name for cell in (first, third) for mark in cell.marks] == ["proof", "proof"]


def test_a_cell_that_is_not_there_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match="no cell is called four"):
        chosen(["one", "two"], "one", "four")


def test_both_targets_together_run_everything_once() -> None:
    recipe = "".join((ROOT / name).read_text() for name in ("Makefile", "dev/proof.mk"))
    for target, marker in (("test", "not proof"), ("proof", "proof")):
        assert f"$(call tests,{target},{marker})" in recipe
