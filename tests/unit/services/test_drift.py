"""All services repeat the same few lines, except for their names; anything longer belongs in `shared/`.

The skeleton is among them: a copy of it, and a service that has been here for years, are fixed alike. A service may
have more: a dependency of its own in its container, another container in its compose file.
"""

import ast
import difflib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dev.service.copying import MODULE
from dev.service.names import Spellings

SERVICES = sorted(path.parent.name for path in Path("services").glob("*/__main__.py"))
SKELETON = Path("dev/service/skeleton")
LIBRARY_TABLES = re.compile(r"(?:\br\d{4}\.(?:upgrade|create)\(\)\s*)+")
REPEATED_MAX = 45
"""Lines; with more, a fix would be needed in many places."""


def text(service: str, file: str) -> str:
    """Return a service's file as if the service were called `skeleton`."""
    return Spellings(service).generic(Path(f"services/{service}/{file}").read_text())


def skeleton(file: str) -> str:
    return (SKELETON / "service" / file).read_text().replace(MODULE, "services.skeleton")


def whole(source: str) -> str:
    return source


def base(source: str) -> str:
    """Return the base class of a service's tables."""
    (found,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Base")
    return ast.get_source_segment(source, found) or ""


def router(source: str) -> str:
    """Return an API's router, without its tokens' scope."""
    (found,) = (line for line in source.splitlines() if line.startswith("router ="))
    return found.partition("scope=")[0]


def first_words(source: str) -> str:
    """Return the first migration's beginning, for any release of the library's tables."""
    begins = source.partition("    op.create_table(")[0].partition("revision =")[2]
    return LIBRARY_TABLES.sub("the library's tables", begins)


ALIKE: dict[str, Callable[[str], str]] = {
    "__init__.py": whole,
    "__main__.py": whole,
    "container.py": whole,
    "models.py": base,
    "api.py": router,
}


def refuse_lacking(file: str, mine: str, repeated: str) -> None:
    """Refuse a file that lacks a line of the others or has another order; it may have more."""
    lines = iter(mine.splitlines())
    for line in repeated.splitlines():
        assert any(found == line for found in lines), (
            f"{file} lacks a line that every service has, or has it elsewhere: {line!r}. You may add lines; take this "
            f"one over from the skeleton. The difference:\n"
            + "\n".join(difflib.unified_diff(repeated.splitlines(), mine.splitlines(), "skeleton", file, lineterm=""))
        )


@pytest.mark.parametrize("file", ALIKE)
@pytest.mark.parametrize("service", SERVICES)
def test_what_services_repeat_is_alike(service: str, file: str) -> None:
    refuse_lacking(f"services/{service}/{file}", ALIKE[file](text(service, file)), ALIKE[file](skeleton(file)))


@pytest.mark.parametrize("service", SERVICES)
def test_the_first_migration_begins_alike(service: str) -> None:
    one = Path(f"migrations/{service}/0001_pre_tables.py").read_text()
    begins = first_words((SKELETON / "migrations/0001_pre_tables.py").read_text())
    refuse_lacking(f"migrations/{service}/0001_pre_tables.py", first_words(one), begins)


@pytest.mark.parametrize("service", SERVICES)
def test_the_folder_of_a_service_has_the_files_of_the_skeleton(service: str) -> None:
    files = {path.name for path in Path(f"services/{service}").glob("*.py")}
    lacking = {path.name for path in (SKELETON / "service").glob("*.py")} - files
    assert not lacking, f"services/{service} lacks {sorted(lacking)}; take them over from {SKELETON}/service"


def test_what_a_service_must_repeat_is_little() -> None:
    parts = [part(skeleton(file)) for file, part in ALIKE.items()]
    parts.append(first_words((SKELETON / "migrations/0001_pre_tables.py").read_text()))
    assert 0 < sum(len(part.splitlines()) for part in parts) < REPEATED_MAX


@pytest.mark.parametrize("service", SERVICES)
def test_the_containers_are_alike(service: str) -> None:
    """Only the port and a token's rights differ."""

    def alike(containers: str) -> str:
        scopes = re.sub(r"local:[\w-]+:read,[\w-]+:write:", "local:", containers)
        return re.sub(r"_PORT:-\d+\}", "_PORT}", scopes)

    name = Spellings(service)
    mine = Path(f"compose/{service}.yml").read_text()
    refuse_lacking(
        f"compose/{service}.yml",
        alike(name.generic(mine).replace(name.screaming, "SKELETON")),
        alike((SKELETON / "compose.yml").read_text()),
    )


def test_more_is_accepted_and_less_is_not() -> None:
    refuse_lacking("a file", "one\nmore\ntwo\n", "one\ntwo\n")
    for mine in ("one\n", "two\none\n", "one\ntwo, changed\n"):
        with pytest.raises(AssertionError, match="lacks a line that every service has"):
            refuse_lacking("a file", mine, "one\ntwo\n")
