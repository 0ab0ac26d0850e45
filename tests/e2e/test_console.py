"""The demo, watched in a browser: a worker is killed; that is seen, heals, and the balance beside it holds."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from dev.demo import market
from dev.demo.flow import Background
from dev.demo.load import Load
from dev.demo.observer import Observer
from dev.demo.running import BESIDE, RunningBalance
from dev.servers import running
from dev.system import Shape, System
from shared.testing import SECONDS_MAX, until
from tests.chromium import browsing

pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]

ORDERS, SECONDS = 60, 10.0
SEEN_MS = 120_000
"""A worker that was killed is back within seconds; the machine may be busy."""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, Load, Page]]:
    logs = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        browser = stack.enter_context(browsing())
        shape = Shape(workers=1, callers=1, console=True, settings={"CONSOLE_BESIDE": str(logs / BESIDE)})
        system = stack.enter_context(System(stack.enter_context(running()), shape, logs=logs))
        load = Load(system.url, market.plan("demo", 7, ORDERS, SECONDS))
        observer = stack.enter_context(Observer(system.bootstrap, system.services))
        stack.enter_context(RunningBalance(logs / BESIDE, system.dsn, load.book, observer, lambda: ("1 killed", "")))
        page = browser.new_page(viewport={"width": 1600, "height": 1_000})
        page.set_default_timeout(SECONDS_MAX * 1_000)
        page.goto(system.console)
        yield system, load, page


def shop(load: Load) -> None:
    """Do all that customers do; on a thread, since Playwright has the event loop of this one."""
    load.open()
    load.run()


def test_a_kill_is_seen_and_heals_while_the_balance_holds(watched: tuple[System, Load, Page], tmp_path: Path) -> None:
    system, load, page = watched
    words = page.locator("#right-words-inventory")
    expect(words).to_have_text("1 worker", timeout=SEEN_MS)
    customers = Background(partial(shop, load), "customers")
    promised = page.locator("#beside div", has_text="orders promised").locator("dd").first
    expect(promised).to_have_text(re.compile(r"[1-9]\d*"), timeout=SEEN_MS)

    assert system.supervisor.kill("inventory worker 1")
    changes = page.locator("#changes-inventory")
    expect(changes).to_contain_text("lost: the worker has ended", timeout=SEEN_MS)
    page.screenshot(path=tmp_path / "killed.png")
    expect(changes).to_contain_text(re.compile(r"slot \d taken, [\d.]+ s after it was lost"), timeout=SEEN_MS)
    expect(words).to_have_text("1 worker", timeout=SEEN_MS)

    until(lambda: customers.done(0.1), "all orders are placed", 300)
    expect(promised).to_have_text(str(ORDERS), timeout=SEEN_MS)
    on_their_way = page.locator("#beside div", has_text="orders confirmed")
    expect(on_their_way).to_contain_text(re.compile(r"\b0 on their way"), timeout=SEEN_MS)
    expect(page.locator("#beside dd[data-state=ok]")).to_have_count(4)
    assert page.locator("#beside dd[data-state=bad], #beside dd[data-state=unknown]").count() == 0
    page.screenshot(path=tmp_path / "healed.png")
    assert system.balance().sheet(load.book).balanced
