"""The name of a service: how it is spelled in code, in URLs and in sentences, and which names are refused."""

import keyword
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass

from shared import tables

LENGTH_MAX = 40
"""A PostgreSQL identifier has 63 bytes, and our tests put a suffix of 13 behind the name of a database; a constraint of
the plural's table puts another behind it. Kafka would allow 249 for a topic.
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
    """`goods_return`: the folder, the module, the database, the consumer group, and the beginning of the topics."""

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
    def plural(self) -> str:
        """`goods_returns`: the table."""
        if re.search(r"(s|x|z|ch|sh)$", self.snake):
            return f"{self.snake}es"
        if re.search(r"[^aeiou]y$", self.snake):
            return f"{self.snake[:-1]}ies"
        return f"{self.snake}s"

    @property
    def path(self) -> str:
        """`goods-returns`: URLs."""
        return self.plural.replace("_", "-")

    def instead_of_skeleton(self) -> dict[str, str]:
        """Give what stands in the skeleton's texts for the name, and what to write there."""
        return {
            "/skeletons": f"/{self.path}",
            "skeleton service": f"{self.words} service",
            "SKELETON": self.screaming,
            "Skeleton": self.title,
            "skeletons": self.plural,
            "skeleton": self.snake,
        }

    def generic(self, text: str) -> str:
        """Give a text of this service as one of a service called `skeleton`, to compare it with others."""
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
        raise WrongName(f"{name!r}: there is a service of this name")
    if name in OURS:
        raise WrongName(f"{name!r} has a meaning in this repository")
    if name in sys.stdlib_module_names:
        raise WrongName(f"{name!r} is a module of Python's standard library; imports would be misread")
    if name in DATABASES or name.startswith("pg_"):
        raise WrongName(f"{name!r}: PostgreSQL keeps this name for itself")
    found = Spellings(name)
    clash = {name, found.plural} & {*tables.metadata.tables, "alembic_version"}
    if clash:
        raise WrongName(f"{name!r}: the library has a table {clash.pop()!r} in the database of every service")
    return found
