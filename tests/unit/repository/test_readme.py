"""Page one is short, and true of the tree and the code."""

import re
from pathlib import Path

from dev.demo.picture import FIRST, LAST, svg

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
LINES_MAX = 150


def block(heading: str) -> str:
    """Return the first fenced block after a heading."""
    return README.split(f"\n## {heading}\n", 1)[1].split("```", 2)[1]


def folders(place: Path) -> list[str]:
    """Return the names of the folders in a folder, without those that tools made or left."""
    return sorted(
        path.name
        for path in place.iterdir()
        if path.is_dir()
        and not path.name.startswith((".", "_"))
        and any(file.is_file() and file.suffix != ".pyc" for file in path.rglob("*"))
    )


def test_it_is_one_page() -> None:
    assert len(README.splitlines()) <= LINES_MAX


def test_the_tree_lists_every_folder_and_no_other() -> None:
    listed = block("What you find where")

    assert sorted(re.findall(r"^(\w+)/ ", listed, re.MULTILINE)) == folders(ROOT)
    assert sorted(re.findall(r"^  (\w+)/ ", listed, re.MULTILINE)) == folders(ROOT / "shared")


def test_the_way_of_a_record_leads_through_modules_that_are_there() -> None:
    way = re.findall(r" ((?:\w+/)*\w+\.py)\b", block("The way of one record"))

    assert len(way) >= 8
    assert [name for name in way if not ((ROOT / "shared" / name).exists() or (ROOT / name).exists())] == []


def test_the_handler_on_page_one_is_that_of_the_inventory_service() -> None:
    code = block("What you write").removeprefix("python\n")
    inventory = (ROOT / "services" / "inventory" / "handlers.py").read_text()
    pieces = [piece.strip("\n") for piece in code.split("\n\n") if piece.strip()]

    assert len(code.splitlines()) >= 8
    assert [piece for piece in pieces if piece not in inventory] == []


def test_nothing_is_left_to_be_filled_in() -> None:
    assert re.findall(r"^<\w+>$", README, re.MULTILINE) == []


def drawn(picture: str) -> str:
    """Return the words of a picture."""
    return re.sub(r"<[^>]+>", " ", picture).replace("&#160;", " ")


def test_a_picture_has_the_beginning_and_the_end_of_what_happened() -> None:
    lines = [f"[dim]00:{n:02}[/dim]  [red]killed[/red]  order worker {n}" for n in range(20)]

    picture = drawn(svg(lines, ["It balances."]))

    shown = [int(number) for number in re.findall(r"order worker (\d+)", picture)]
    assert shown == [*range(FIRST), *range(20 - LAST, 20)]
    assert "It balances." in picture
    assert len(re.findall(r"order worker", drawn(svg(lines[:3], [])))) == 3


def test_the_picture_is_of_a_run_that_balanced() -> None:
    """The README has its numbers; `make demo PICTURE=docs/demo.svg` draws it anew."""
    picture = drawn((ROOT / "docs" / "demo.svg").read_text())
    orders, kills, freezes = re.findall(r"([\d,]+) orders in 60 s, (\d+) kills, (\d+) freezes", picture)[0]

    assert "It balances." in picture
    told = " ".join((ROOT / "README.md").read_text().split())
    assert f"{orders} orders in a minute" in told
    assert f"{kills} processes are killed" in told
    assert f"{freezes} workers frozen" in told
    assert "url(http" not in picture, "nothing is loaded from elsewhere"


def test_the_figures_are_those_of_the_other_pages() -> None:
    bench = (ROOT / "docs" / "benchmarks.md").read_text()
    events, alone, recovery, latency, most = (
        re.search(pattern, bench)[1]  # type: ignore[index]
        for pattern in (
            r"drains order.events \| .* ([\d,]+) events/s",
            r"worker / SQL alone\*\* \| .*\*\*([\d.]+)\*\*",
            r"with a standby, median; the longest \| .*\*\*([\d.]+)\*\*",
            r"POST to OrderConfirmed, p50, ms \| (\d+) / ",
            r"most orders/s that are borne; the peer's \| (\d+); ",
        )
    )
    (storms,) = re.findall(r"in\s+([\d,]+)\s+storms:\s+0\s+anomalies", (ROOT / "docs" / "proof.md").read_text())

    assert f"{int(events.replace(',', '')) // 100 * 100:,} events/s" in README
    assert f"{alone} of the same SQL" in README
    assert f"over in {recovery} s" in README
    assert f"At most {most} orders/s" in README
    assert f"{latency} ms, median" in README
    assert f"**{storms} storms** of" in README
