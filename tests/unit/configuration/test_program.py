"""A message names a command as it is typed where the process was started."""

import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from shared.configuration.program import program, service_folder

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("started", "with_container", "typed"),
    [
        ("services.order.__main__", True, "python -m services.inventory"),
        ("backend.apps.order.__main__", True, "python -m backend.apps.inventory"),
        ("order.__main__", True, "python -m inventory"),
        ("pytest.__main__", False, "python -m services.inventory"),
        ("tests.faults.crashing_worker", True, "python -m services.inventory"),
        (None, False, "python -m services.inventory"),  # a console script
    ],
)
def test_a_command_is_named_as_it_is_typed(
    monkeypatch: pytest.MonkeyPatch, started: str | None, with_container: bool, typed: str
) -> None:
    main = ModuleType("__main__")
    main.__spec__ = None if started is None else ModuleSpec(started, None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    if with_container and started:
        beside = f"{started.rpartition('.')[0]}.container"
        monkeypatch.setitem(sys.modules, beside, ModuleType(beside))

    assert program("inventory") == typed


def test_no_message_of_the_library_spells_it_by_itself() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted((ROOT / "shared").rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"-m services\.\{", line)
    ]
    assert found == [], "name a command with `program(service)` of shared/configuration/program.py"


def test_the_folder_of_a_service_is_that_of_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert service_folder() is None  # this is pytest
    main = ModuleType("__main__")
    main.__file__ = str(tmp_path / "backend/order/__main__.py")
    main.__spec__ = ModuleSpec("backend.order.__main__", None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert service_folder() is None  # a package, and no service
    monkeypatch.setitem(sys.modules, "backend.order.container", ModuleType("backend.order.container"))
    assert service_folder() == tmp_path / "backend/order"
