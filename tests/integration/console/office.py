"""A console of one small service on real servers, and a browser at it."""

import re
from typing import Any

import httpx

from shared.console.application import make_application
from shared.console.board import Board
from shared.console.estate import known
from shared.http import tokens
from shared.settings import Settings
from shared.testing import SECONDS_MAX, until
from tests.faults import trail
from tests.integration.tallies import Tallies
from tests.unit.console.desk import Browser

EVERYTHING = ("console:read", "dead-letters:write", "parked:write", "inputs:write", "schedule:write", "calls:write")


class Office:
    """The console of `tallies`, and one who may do everything."""

    def __init__(self, tallies: Tallies, **settings: Any) -> None:
        self.tallies = tallies
        self.name = tallies.name
        self.secrets, entries = {}, []
        for who in ("ada", "grace"):
            self.secrets[who], entry = tokens.make(who, EVERYTHING)
            entries.append(entry)
        given = tallies.settings.model_dump() | {"api_auth": "on", "api_tokens": " ".join(entries), **settings}
        self.settings = Settings.model_validate(given)
        self.board = Board([known(trail.container(tallies.kit, self.settings))])
        self.application = make_application(self.board, self.settings, self.name)
        self.browser = self.of("ada")
        self.board.start()

    def __enter__(self) -> "Office":
        return self

    def __exit__(self, *_: object) -> None:
        self.board.watch.end()
        sight = self.board.sights[self.name]
        for look in sight.looks:
            look._thread.join(SECONDS_MAX)
        for context in (sight.known.reading, sight.known.acting):
            context.engine.dispose()

    def of(self, who: str) -> Browser:
        """Return the browser of somebody who has logged in."""
        made = Browser(self.application)
        assert made.post("/login", data={"token": self.secrets[who]}).status_code in (200, 503)
        return made

    def act(self, act: str, browser: Browser | None = None, /, **fields: object) -> httpx.Response:
        """Do something, as somebody does who has read the page that asks first."""
        browser = browser or self.browser
        chosen = {key: str(value) for key, value in fields.items() if key != "reason"}
        asked = browser.get(f"/confirm/{act}", params={"service": self.name, **chosen})
        assert asked.status_code == 200, asked.text
        form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', asked.text.partition("<main")[2]))
        return browser.post(f"/act/{act}", data=form | ({"reason": fields["reason"]} if "reason" in fields else {}))

    def said(self, answer: httpx.Response) -> list[str]:
        """Return the lines that an act has printed."""
        return re.findall(r"<li>(.*?)</li>", answer.text.partition('<ul class="said">')[2])

    def fact(self, name: str) -> str:
        """Return a number as the first page shows it."""
        page = self.browser.get("/").text
        found = re.search(rf'id="fact-{name}-{self.name}"[^>]*>(.*?)<', page)
        assert found is not None
        return found[1]

    def until_problem(self, title: str) -> str:
        """Wait until there is a problem of this title; return the page."""
        until(lambda: title in self.browser.get("/problems").text, f"a problem: {title}", SECONDS_MAX)
        return self.browser.get("/problems").text
