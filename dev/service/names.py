"""The name of a service: how it is spelled in code, in URLs and in sentences, and which names are refused."""

import ast
import keyword
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

from shared.settings import Settings

ROOT = Path(__file__).parents[2]
SKELETON = Path(__file__).parent / "skeleton"

LENGTH_MAX = 40
"""A PostgreSQL identifier has 63 bytes, and our tests put a suffix of 13 behind the name of a database; a constraint of
its table puts another behind it. Kafka would allow 249 for a topic.
"""
OURS = frozenset({"shared", "services", "service", "dev", "tests", "migrations", "library", "skeleton", "docs"})
"""Folders and words of this repository: a copy could be mistaken for them, and be replaced with them."""
DATABASES = frozenset({"postgres", "template0", "template1"})
"""PostgreSQL has databases of these names already, and a service's database is named after it."""


class WrongName(Exception):
    """No service can have this name."""


@dataclass(frozen=True)
class Spellings:
    """A name, as it is written in each place; the examples are those of `goods_return`."""

    snake: str
    """`goods_return`: the folder, the module, the table, the database, the consumer group, the beginning of topics."""

    @property
    def words(self) -> str:
        """`goods return`: in sentences."""
        return self.snake.replace("_", " ")

    @property
    def title(self) -> str:
        """`GoodsReturn`: classes."""
        return "".join(part.capitalize() for part in self.snake.split("_"))

    @property
    def screaming(self) -> str:
        """`GOODS_RETURN`: constants."""
        return self.snake.upper()

    @property
    def path(self) -> str:
        """`goods-return`: URLs. Like the table it is the name itself: a plural by rule is wrong of every tenth name."""
        return self.snake.replace("_", "-")

    def instead_of_skeleton(self) -> dict[str, str]:
        """Return what stands in the skeleton's texts for the name, and what to write there."""
        return {
            "/skeleton/": f"/{self.path}/",
            "skeleton service": f"{self.words} service",
            "SKELETON": self.screaming,
            "Skeleton": self.title,
            "skeleton": self.snake,
        }

    def generic(self, text: str) -> str:
        """Return a text of this service as one of a service called `skeleton`, to compare it with others."""
        text = text.replace(f"{self.words} service", "skeleton service")
        text = re.sub(rf"\b{self.title}(?=[A-Z]|\b)", "Skeleton", text)
        return re.sub(rf"\b{self.snake}\b", "skeleton", text)


def spellings(given: str, taken: Collection[str]) -> Spellings:
    """Check the name of a new service; `Goods-Return` is taken as `goods_return`. Raises `WrongName`."""
    name = given.strip().replace("-", "_").lower()
    if re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) is None:
        raise WrongName(
            f"{given!r}: a name is made of letters, digits and single underscores, and begins with a letter"
        )
    if len(name) > LENGTH_MAX:
        raise WrongName(f"{name!r} has {len(name)} characters; more than {LENGTH_MAX} do not fit PostgreSQL's names")
    if keyword.iskeyword(name):
        raise WrongName(f"{name!r} is a keyword of Python")
    if name in taken:
        raise WrongName(f"{name!r}: there is a service with this name")
    if name in OURS:
        raise WrongName(f"{name!r} has a meaning in this repository")
    if name in sys.stdlib_module_names:
        raise WrongName(f"{name!r} is a module of Python's standard library; imports would be misread")
    if name in DATABASES or name.startswith("pg_"):
        raise WrongName(f"{name!r}: PostgreSQL keeps this name for itself")
    found = Spellings(name)
    if name.startswith("exactly_once"):
        raise WrongName(f"{name!r}: the names of the library's own tables begin so")
    if name in RESERVED_WORDS:
        raise WrongName(f"{name!r} is a reserved word of PostgreSQL; its table would be quoted in every statement")
    if keyword.iskeyword(found.title) or found.title in _identifiers():
        raise WrongName(f"{name!r}: {found.title} would be two things in the service's modules")
    _refuse_variable(name, found.screaming)
    return found


def _refuse_variable(name: str, screaming: str) -> None:
    """Refuse a name whose environment variables mean something else: the port of its API in docker compose, and its own
    settings, which begin with it. Raises `WrongName`.
    """
    compose = (ROOT / "docker-compose.yml").read_text()
    if f"${{{screaming}_PORT:" in compose:
        raise WrongName(f"{name!r}: docker compose has a {screaming}_PORT already, for something else")
    profiles = re.findall(r"profiles: \[(.*)\]", compose)
    containers = re.findall(r"(?m)^  ([\w-]+):$", compose)
    if name in {*containers, *", ".join(profiles).split(", ")} or (ROOT / f"compose/{name}.yml").exists():
        raise WrongName(f"{name!r}: docker compose has a container, a profile or a file of this name")
    alike = [setting.upper() for setting in Settings.model_fields if f"{setting}_".startswith(f"{name}_")]
    if alike:
        raise WrongName(
            f"{name!r}: {alike[0]} is a setting of every service; it would be unclear whose {screaming}_* are"
        )


def _identifiers() -> Iterator[str]:
    """Every name that the skeleton's modules import or define: a class of the new service must be none of them."""
    for path in SKELETON.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                yield from (alias.asname or alias.name for alias in node.names)
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                yield node.name
