"""What `make without-demo` and `make without-proof` would change in a page and a list."""

from pathlib import Path

import pytest

from dev.without import LINE_MAX, braced, files, parts, unlinked
from tests.dev.tree import ROOT


def test_every_path_that_is_listed_is_there() -> None:
    lists = parts()
    for patterns in (lists.demo.files, lists.proof.files, lists.both):
        places = [place for pattern in patterns for place in braced(pattern)]
        assert [place for place in places if not (ROOT / place).exists()] == []
        assert len(files(patterns)) >= len(places)


def test_what_goes_with_one_part_goes_with_no_other() -> None:
    lists = parts()
    assert not {*files(lists.demo.files)} & {*files(lists.both)}
    assert not {*files(lists.proof.files)} & {*files(lists.both)}


def test_a_list_in_braces_is_what_a_shell_makes_of_it() -> None:
    assert braced("docs/{a,b}.md") == ["docs/a.md", "docs/b.md"]
    assert braced("tests/e2e") == ["tests/e2e"]


@pytest.mark.parametrize(
    ("page", "left"),
    [
        ("[the demo](gone.md) and [this](here.md#part)", "the demo and [this](here.md#part)"),
        ("[a part of it](gone.md#part), [the folder](../dev/demo)", "a part of it, the folder"),
        ("[elsewhere](https://example.org/gone.md)", "[elsewhere](https://example.org/gone.md)"),
        ("run `make demo KILLS=3` or `make demo-net`", "run `demo KILLS=3` of the template or `make demo-net`"),
        ("```sh\nmake test\nmake demo   # it runs\nmake demo-net\n```\n", "```sh\nmake test\nmake demo-net\n```\n"),
    ],
)
def test_a_page_loses_the_links_and_commands_of_what_goes(page: str, left: str) -> None:
    going = [Path("docs/gone.md"), *files(parts().demo.files)]
    assert unlinked(page, Path("docs"), going, ["demo", "demo-compose"]) == left


def test_a_line_that_becomes_too_long_is_broken() -> None:
    line = f"- `make e2e` {'and so on ' * 9}to its very end,"
    first, second, third = unlinked(f"{line}\n  and more", Path("docs"), [], ["e2e"]).split("\n")
    assert max(len(first), len(second)) <= LINE_MAX < len(line.replace("`make e2e`", "`e2e` of the template"))
    assert (f"{first} {second[2:]}", second[:2], third) == (
        line.replace("`make e2e`", "`e2e` of the template"),
        "  ",
        "  and more",
    )
