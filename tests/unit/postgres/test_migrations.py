"""A service's history is found in several places."""

from pathlib import Path

import pytest

import migrations.library as before
from shared.errors import Misconfigured
from shared.postgres import migrations
from shared.postgres.migrations import folder_of
from shared.revisions import r0001


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Install the library elsewhere, with nothing in the current folder."""
    for folder in ("installed/exactly_once", "current"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(migrations, "__file__", str(tmp_path / "installed/exactly_once/postgres/migrations.py"))
    monkeypatch.chdir(tmp_path / "current")


@pytest.mark.parametrize(
    ("place", "service"),
    [("acme", "acme/apps/order"), ("acme/backend", "acme/backend/order"), ("acme/order", "acme/order")],
    ids=["beside the folder of services", "among the services", "inside the service"],
)
def test_it_is_somewhere_above_the_service(
    place: str, service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / place / "migrations/order").mkdir(parents=True)
    (tmp_path / service).mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(migrations, "service_folder", lambda: tmp_path / service)
    assert folder_of("order") == tmp_path / place / "migrations/order"


@pytest.mark.parametrize("place", ["installed", "current"])
def test_without_a_service_it_is_beside_the_library_or_in_the_current_folder(place: str, tmp_path: Path) -> None:
    (tmp_path / place / "migrations/order").mkdir(parents=True)
    assert folder_of("order") == tmp_path / place / "migrations/order"


def test_a_service_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="there is no folder migrations/order in or above"):
        folder_of("order")


def test_migrations_of_before_find_the_revisions_where_they_were() -> None:
    assert before.r0001.upgrade is r0001.upgrade
