"""The console in a real browser: Debian's Chromium, driven by Playwright.

`PICTURES=docs` writes the pictures of the documentation; otherwise they go to the test's own folder.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from dev.servers import Postgres
from shared.settings import Settings
from shared.testing import SECONDS_MAX, databases
from tests.chromium import browsing
from tests.integration.console.showcase import Showcase, fill, served, show

expect.set_options(timeout=SECONDS_MAX * 1_000)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PAGES = (
    "/",
    "/problems",
    "/dead-letters?service=order",
    "/dead-letters/order/1",
    "/dead-letters/order/1/edit",
    "/dead-letters/order/6",
    "/waiting?service=order",
    "/decisions?service=order",
)


SAID: dict[Page, list[str]] = defaultdict(list)
"""What the console of each window has said."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def filled(postgres: Postgres) -> Iterator[Settings]:
    """The databases of the three services, with something in them."""
    with databases.migrated(postgres, "order", "inventory", "payment") as settings:
        fill(settings.migration_dsn("order"))
        yield settings


@pytest.fixture
def showcase(filled: Settings) -> Iterator[Showcase]:
    made = Showcase(filled)
    yield made
    for one in made.board.known.values():
        one.reading.engine.dispose()
        one.acting.engine.dispose()


@pytest.fixture
def address(showcase: Showcase) -> Iterator[str]:
    with served(showcase.application) as found:
        yield found


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return Path(os.environ.get("PICTURES") or tmp_path)


def opened(chromium: Browser, address: str, showcase: Showcase, *, size: dict[str, int], scheme: str = "light") -> Page:
    """Return a window of somebody who has logged in; what its console says is in `SAID`."""
    context = chromium.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(SECONDS_MAX * 1_000)

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            SAID[page].append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: SAID[page].append(str(error)))
    page.goto(f"{address}/login")
    page.get_by_label("Token").fill(showcase.secret)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("What flows")
    return page


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        pytest.param(DESKTOP, "light", id="desktop light"),
        pytest.param(PHONE, "dark", id="phone dark"),
        pytest.param(DESKTOP, "dark", id="desktop dark", marks=pytest.mark.proof),
        pytest.param(PHONE, "light", id="phone light", marks=pytest.mark.proof),
    ],
)
def test_every_page_fits_and_a_browser_has_nothing_to_object(
    chromium: Browser, showcase: Showcase, address: str, tmp_path: Path, *, size: dict[str, int], scheme: str
) -> None:
    page = opened(chromium, address, showcase, size=size, scheme=scheme)
    for place in PAGES:
        page.goto(f"{address}{place}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], place
        assert page.evaluate("window.hacked") is None
        name = place.partition("?")[0].strip("/").replace("/", "-") or "flow"
        page.screenshot(path=tmp_path / f"{name}-{size['width']}-{scheme}.png", full_page=True)

    objections = [line for line in SAID[page] if "404" not in line]  # of the page that is not there
    assert objections == [], "a script or style that the policy refuses is an error there"


def test_the_pictures_of_the_documentation(chromium: Browser, showcase: Showcase, address: str, pictures: Path) -> None:
    page = opened(chromium, address, showcase, size={"width": 1240, "height": 860})
    expect(page.locator("#connection")).to_have_text("live")
    page.screenshot(path=pictures / "console-flow.png")
    page.goto(f"{address}/dead-letters/order/1")
    page.screenshot(path=pictures / "console-dead-letter.png")
    showcase.break_payment()
    dark = opened(chromium, address, showcase, size={"width": 1240, "height": 700}, scheme="dark")
    dark.goto(f"{address}/problems")
    expect(dark.get_by_role("heading", name="Nothing flows")).to_be_visible()
    dark.screenshot(path=pictures / "console-problems.png")


def test_a_number_changes_while_somebody_looks(chromium: Browser, showcase: Showcase, address: str) -> None:
    page = opened(chromium, address, showcase, size=DESKTOP)
    expect(page.locator("#fact-lag-payment")).to_have_text("12")
    page.get_by_role("link", name="Decisions").focus()

    showcase.break_payment()
    expect(page.locator("#state-payment")).to_have_text("no worker")
    assert page.locator("#state-payment").get_attribute("data-state") == "bad"
    assert page.locator("#right-payment").get_attribute("data-state") == "bad"
    expect(page.locator("#nav-problems")).to_have_text("2")
    expect(page.get_by_role("status")).to_have_text("2 problems")
    expect(page.get_by_role("link", name="Decisions")).to_be_focused()


@pytest.mark.parametrize("width", [390, 1240, 1700])
def test_numbers_of_somebody_else_stand_beside_the_picture(
    chromium: Browser, filled: Settings, tmp_path: Path, width: int
) -> None:
    place = tmp_path / "beside.json"
    made = Showcase(filled, place)
    renew(place, doubled="0", state="ok")
    made.board.beside.look.start()  # type: ignore[union-attr]
    with served(made.application) as address:
        page = opened(chromium, address, made, size={"width": width, "height": 1_000})
        beside = page.get_by_role("complementary", name="Beside the picture")
        expect(beside.get_by_role("heading")).to_have_text("The balance")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=tmp_path / f"beside-{width}.png")
        picture, panel = page.locator(".picture").bounding_box(), beside.bounding_box()
        assert picture
        assert panel
        assert (panel["x"] > picture["x"] + picture["width"]) == (width == 1700), "on its right, or below it"

        renew(place, doubled="2", state="bad")
        expect(beside.locator("dd[data-state=bad]")).to_have_text("2")
        place.unlink()
        expect(beside).to_contain_text("unknown: beside.json")
    for one in made.board.known.values():
        one.reading.engine.dispose()
        one.acting.engine.dispose()


def renew(place: Path, *, doubled: str, state: str) -> None:
    """Write numbers as the demo does."""
    rows = [
        {"what": "orders promised", "value": "1,204", "note": "customers were told so"},
        {"what": "of them lost", "value": "0", "note": "promised, and not in the table", "state": "ok"},
        {"what": "events published", "value": "4,811", "note": "as a reader of the topics sees them"},
        {"what": "of them doubled", "value": doubled, "note": "published once more", "state": state},
        {"what": "struck so far", "value": None, "note": "last: order worker 1, 3 s ago"},
    ]
    words = "processes are killed and frozen while it grows"
    place.write_text(json.dumps({"title": "The balance", "words": words, "rows": rows, "note": "Sums, a moment old."}))
    tomorrow = time.time() + 86_400  # fresh, however slow the machine is
    os.utime(place, (tomorrow, tomorrow))


def test_a_window_that_nobody_sees_asks_nothing(chromium: Browser, showcase: Showcase, address: str) -> None:
    page = opened(chromium, address, showcase, size=DESKTOP)
    expect(page.locator("#connection")).to_have_text("live")
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    sight = showcase.board.sights["payment"]
    answer = sight.tables.answer
    assert answer is not None
    show(sight, "tables", answer.found._replace(holders=[]))
    assert page.locator("#state-payment").inner_text() == "2 workers"

    page.evaluate("Object.defineProperty(document, 'hidden', {value: false, configurable: true})")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#state-payment")).not_to_have_text("2 workers")


def test_a_console_that_has_gone_is_said(chromium: Browser, showcase: Showcase) -> None:
    with served(showcase.application) as address:
        page = opened(chromium, address, showcase, size=DESKTOP)
        expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#connection")).to_have_text("not live: connecting again")


def test_the_token_is_in_no_address_and_the_cookie_out_of_reach(
    chromium: Browser, showcase: Showcase, address: str
) -> None:
    page = opened(chromium, address, showcase, size=DESKTOP)

    assert page.url == f"{address}/"
    assert page.evaluate("document.cookie") == ""
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    page.goto(f"{address}/problems")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


def test_a_dead_letter_is_dismissed_by_the_keyboard_alone(chromium: Browser, showcase: Showcase, address: str) -> None:
    page = opened(chromium, address, showcase, size=DESKTOP)
    page.goto(f"{address}/dead-letters/order/3")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Dismiss…":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Dismiss dead letter 3?")
    page.get_by_label("Why").fill("a test order")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 dead letters dismissed by decision")).to_be_visible()

    page.get_by_role("link", name="The decisions").click()
    decided = page.get_by_role("row").filter(has_text="dead-letters dismiss")
    expect(decided.get_by_role("cell", name="ada", exact=True)).to_be_visible()
    expect(decided.get_by_role("cell", name="a test order", exact=True)).to_be_visible()


def test_a_dead_letter_is_edited_and_the_difference_is_seen_before(
    chromium: Browser, showcase: Showcase, address: str, pictures: Path
) -> None:
    page = opened(chromium, address, showcase, size={"width": 1240, "height": 860})
    page.goto(f"{address}/dead-letters/order/5")
    page.get_by_role("link", name="Edit…").click()
    value = page.get_by_label("Value")
    assert value.input_value().splitlines()[1] == '  "order_id": "o-4711",'
    value.fill(value.input_value().replace('"129.90"', "12990"))
    page.get_by_role("button", name="Show the difference").click()
    expect(page.locator('[data-sign="goes"] code')).to_have_text('  "amount": "129.90",', use_inner_text=False)
    expect(page.locator('[data-sign="comes"] code')).to_have_text('  "amount": 12990,', use_inner_text=False)
    page.get_by_label("Why").fill("the bank wrote euros as text; they are cents")
    page.get_by_role("button", name="Go on editing").click()
    value = page.get_by_label("Value")
    assert '"amount": 12990,' in value.input_value()
    page.get_by_role("button", name="Show the difference").click()
    expect(page.get_by_label("Why")).to_have_value("the bank wrote euros as text; they are cents")
    page.screenshot(path=pictures / "console-edit.png")
    page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    expect(page.get_by_label("redrive it at once")).not_to_be_checked()
    page.get_by_role("button", name="Keep the edit").click()
    expect(page.get_by_text("dead letter 5 is edited by decision")).to_be_visible()

    page.get_by_role("link", name="Go on").click()
    expect(page.get_by_role("heading", name="Value as edited")).to_be_visible()
    expect(page.get_by_role("group", name="Value as edited")).to_contain_text('"amount": 12990')
    assert page.evaluate("window.hacked") is None


def test_a_command_is_copied(chromium: Browser, showcase: Showcase, address: str) -> None:
    showcase.break_payment()
    page = opened(chromium, address, showcase, size=DESKTOP)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{address}/problems")
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()

    assert page.evaluate("navigator.clipboard.readText()") == "python -m services.payment worker"
