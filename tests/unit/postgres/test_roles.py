"""The page says which rights `migrate` grants, and which tables are meant."""

import re
from pathlib import Path

from shared.postgres import roles, tables

PAGE = (Path(__file__).parents[3] / "docs" / "deploying.md").read_text()


def test_the_page_lists_the_rights_of_the_library() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ((?:`[A-Z]+`(?:, )?)+) \|$", PAGE, re.MULTILINE)
    listed = {name: right.replace("`", "") for names, right in rows for name in re.findall(r"\w+", names)}
    (others,) = re.findall(r"^\| every other table \| (.*) \|$", PAGE, re.MULTILINE)

    for name in (*tables.metadata.tables, "exactly_once_schema_version", "a_table_of_a_service"):
        assert roles.rights(name) == listed.get(name, others.replace("`", "")), name


def test_each_table_of_the_library_has_its_rights() -> None:
    assert roles._LIBRARY.keys() == tables.metadata.tables.keys() | {"exactly_once_schema_version"}
