"""The pages: what they show, to whom, and what they refuse."""

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from httpx import Response
from sqlalchemy.exc import TimeoutError as NoFreeConnection

from shared.console import access, acts
from shared.console.application import ACTS_MAX, THREADS, make_application
from shared.console.estate import Absent
from shared.testing import SECONDS_MAX
from tests.unit.console.desk import SECRET, Browser, Desk

PAGES = ("/", "/problems", "/story")


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    for name in ("shop", "store"):
        made.sees(name)
    return made


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_every_service_and_no_secret(desk: Desk, page: str) -> None:
    shown = desk.browser.get(page)

    assert shown.status_code == 200, shown.text
    assert SECRET not in shown.text
    assert "shop" in desk.browser.get("/").text


@pytest.mark.parametrize("page", [*PAGES, "/login", "/nowhere", "/static/0/console.css", "/confirm/nothing"])
def test_every_answer_makes_a_browser_careful(desk: Desk, page: str) -> None:
    found = desk.browser.get(page).headers

    assert found["content-security-policy"] == access.HEADERS["Content-Security-Policy"]
    assert "unsafe" not in found["content-security-policy"]
    assert found["x-frame-options"] == "DENY"
    assert found["x-content-type-options"] == "nosniff"
    assert found["cache-control"] == "no-store"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_script_and_no_style_of_its_own(desk: Desk, page: str) -> None:
    text = desk.browser.get(page).text

    assert re.findall(r"<script(?![^>]* src=)", text) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", text) == []


def test_files_are_kept_for_ever_under_their_digest(desk: Desk) -> None:
    places = re.findall(r'"(/static/[0-9a-f]{16}/[^"]+)"', desk.browser.get("/").text)

    assert len(places) == 3
    for place in places:
        found = desk.browser.get(place)
        assert found.status_code == 200
        assert "immutable" in found.headers["cache-control"]


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.7", ""])
def test_a_name_that_was_rebound_is_refused(desk: Desk, host: str) -> None:
    assert desk.browser.get("/", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost:8090", "127.0.0.1:8090", "[::1]:8090", "LOCALHOST"])
def test_names_of_this_machine_are_let_in(desk: Desk, host: str) -> None:
    assert desk.browser.get("/", headers={"Host": host}).status_code == 200


def test_a_name_that_is_set_is_let_in_and_its_cookie_is_for_https_alone() -> None:
    desk = Desk(scopes=("console:read",), console_names="console.example.com")
    answer = desk.browser.post(
        "/login", data={"token": desk.secret}, headers={"Host": "console.example.com"}, follow_redirects=False
    )

    assert answer.status_code == 303
    assert "secure" in answer.headers["set-cookie"].lower()


def test_what_is_not_known_is_never_shown_as_nothing() -> None:
    desk = Desk()  # no look has found anything
    desk.sees("store", topics=None)
    desk.sight("store").topics.answer = None
    text = desk.browser.get("/").text

    assert "not seen yet" in text
    for name in ("published", "handled", "lag", "rows", "oldest"):
        assert re.search(rf'id="fact-{name}-shop" data-state="unknown">unknown<', text), name
    assert re.search(r'id="fact-lag-store" data-state="unknown">unknown<', text), "Kafka knows the end"
    assert re.search(r'id="fact-rows-store" data-state="ok">0<', text), "PostgreSQL knows the outbox"


def test_a_service_that_cannot_be_loaded_is_shown_and_the_others_too(desk: Desk) -> None:
    broken = Desk(Absent("billing", "services.billing cannot be loaded: KeyError: 'BANK'"))
    broken.sees("shop")

    for page in ("/", "/problems"):
        assert "KeyError: &#39;BANK&#39;" in broken.browser.get(page).text


# ---- who may look


def test_without_a_token_there_is_only_the_form() -> None:
    desk = Desk(scopes=("console:read",))
    asked = desk.browser.get("/problems?x=1", follow_redirects=False)

    assert (asked.status_code, asked.headers["location"]) == (303, "/login?next=%2Fproblems%3Fx%3D1")
    assert desk.browser.get("/live/flow").status_code == 401
    assert desk.browser.post("/act/redrive").status_code == 401


def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites() -> None:
    desk = Desk(scopes=("console:read",))
    answer = desk.browser.post("/login", data={"token": desk.secret, "next": "/problems"}, follow_redirects=False)

    assert answer.headers["location"] == "/problems"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert f"max-age={access.LASTS_SECONDS}" in cookie
    assert desk.secret not in answer.headers["set-cookie"]
    assert desk.browser.get("/").status_code == 200


@pytest.mark.parametrize("place", ["//evil.example", "https://evil.example", "/\\evil.example", "/\r\nX: y"])
def test_a_login_leads_nowhere_else(place: str) -> None:
    desk = Desk(scopes=("console:read",))
    answer = desk.browser.post("/login", data={"token": desk.secret, "next": place}, follow_redirects=False)

    assert answer.headers["location"] == "/"


@pytest.mark.parametrize(("token", "status"), [("guessed", 401), ("", 401), ("x" * 70_000, 413), ("\0é", 401)])
def test_another_token_is_refused(token: str, status: int) -> None:
    desk = Desk(scopes=("console:read",))

    assert desk.browser.post("/login", data={"token": token}).status_code == status
    assert desk.browser.get("/", follow_redirects=False).status_code == 303


def test_a_token_of_the_api_alone_may_not_look() -> None:
    desk = Desk(scopes=("console:read",))
    other = Desk(scopes=("orders:read", "console:read"))
    assert other.browser.post("/login", data={"token": desk.secret}).status_code == 401


def test_guessing_ends_soon() -> None:
    desk = Desk(scopes=("console:read",))
    answers = [desk.browser.post("/login", data={"token": str(n)}).status_code for n in range(40)]

    assert answers[0] == 401
    assert answers[-1] == 429


def test_a_login_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(scopes=("console:read",))
    desk.log_in()
    assert desk.browser.get("/", follow_redirects=False).status_code == 200

    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + access.LASTS_SECONDS + 1)
    assert desk.browser.get("/", follow_redirects=False).status_code == 303


def test_a_cookie_of_another_process_is_worth_nothing() -> None:
    first, second = Desk(scopes=("console:read",)), Desk(scopes=("console:read",))
    first.log_in()
    second.browser.cookies = first.browser.cookies

    assert second.browser.get("/", follow_redirects=False).status_code == 303


def test_logging_out_needs_the_own_page() -> None:
    desk = Desk(scopes=("console:read", "dead-letters:write"))
    desk.log_in()
    assert desk.browser.post("/logout", data={"csrf": "another"}).status_code == 403
    assert desk.browser.get("/", follow_redirects=False).status_code == 200

    desk.browser.post("/logout", data={"csrf": desk.csrf()})
    assert desk.browser.get("/", follow_redirects=False).status_code == 303


def test_a_copied_cookie_ends_with_its_login_and_no_other_one() -> None:
    desk = Desk(scopes=("console:read", "dead-letters:write"))
    desk.log_in()
    other = Browser(desk.application)
    other.post("/login", data={"token": desk.secret})
    copied = Browser(desk.application)
    copied.cookies = httpx.Cookies(desk.browser.cookies)
    assert copied.get("/", follow_redirects=False).status_code == 200

    desk.browser.post("/logout", data={"csrf": desk.csrf()})
    assert copied.get("/", follow_redirects=False).status_code == 303
    assert other.get("/", follow_redirects=False).status_code == 200


def test_two_consoles_on_one_host_leave_each_other_s_users_alone() -> None:
    first, second = (Desk(scopes=("console:read",), console_port=port) for port in (8070, 8071))
    first.log_in()
    second.browser.cookies = first.browser.cookies  # the browser has one store for all ports of a host
    second.log_in()

    first.browser.cookies = second.browser.cookies
    assert first.browser.get("/", follow_redirects=False).status_code == 200
    assert second.browser.get("/", follow_redirects=False).status_code == 200


# ---- who may act


@pytest.mark.parametrize("name", acts.ACTS)
def test_without_the_scope_nothing_can_be_done(name: str) -> None:
    others = sorted({act.scope for act in acts.ACTS.values()} - {acts.ACTS[name].scope})
    desk = Desk(scopes=("console:read", *others))
    desk.log_in()
    asked = f"/confirm/{name}?service=shop&id=1&name=a&event_id=b&target=t[0]&key=61&offset=1"

    refused = desk.browser.get(asked)
    assert refused.status_code == 403
    assert f"does not have the scope {acts.ACTS[name].scope}" in refused.text
    done = desk.browser.post(f"/act/{name}", data={"service": "shop", "csrf": desk.csrf()})
    assert done.status_code == 403
    assert f"does not have the scope {acts.ACTS[name].scope}" in done.text


def test_the_form_that_edits_needs_its_scope_and_a_redrive_with_it_another() -> None:
    reader = Desk(scopes=("console:read", "dead-letters:write"))
    reader.log_in()
    place, lacks = "/dead-letters/shop/1/edit", "does not have the scope dead-letter-values:write"
    asked = [reader.browser.get(place), reader.browser.post(place, data={"csrf": reader.csrf(), "value": "{}"})]
    assert [(answer.status_code, lacks in answer.text) for answer in asked] == [(403, True)] * 2

    editor = Desk(scopes=("console:read", "dead-letter-values:write"))
    editor.log_in()
    fields = {"service": "shop", "id": "1", "base": "0", "value": "{}", "reason": "why", "redrive": "yes"}
    csrf = re.findall('name="csrf" value="([^"]+)"', editor.browser.get("/problems").text)[0]
    refused = editor.browser.post("/act/edit", data={**fields, "csrf": csrf})
    assert refused.status_code == 403
    assert "does not have the scope dead-letters:write" in refused.text
    assert editor.browser.post(place, data={"value": "{}", "csrf": "guessed"}).status_code == 403
    large = {**fields, "csrf": csrf, "value": "x" * 1_600_000}
    assert editor.browser.post("/act/edit", data=large).status_code == 413


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({"value": ""}, 409, "value is missing"),
        ({"base": "-1"}, 409, "is not a number"),
        ({"base": ""}, 409, "base is missing"),
        ({"reason": " "}, 409, "the reason is empty"),
        ({"value": "x" * 900_001}, 409, "more than EVENT_BYTES_MAX"),
    ],
)
def test_an_edit_that_is_incomplete_is_refused_in_words(
    desk: Desk, changed: dict[str, str], status: int, words: str
) -> None:
    fields = {"csrf": desk.csrf(), "service": "shop", "id": "1", "base": "0", "value": "{}", "reason": "why"}
    answer = desk.browser.post("/act/edit", data={**fields, **changed})

    assert (answer.status_code, words in answer.text) == (status, True), answer.text
    asked = desk.browser.get("/confirm/edit?service=shop&id=1&base=0&value=x", follow_redirects=False)
    assert (asked.status_code, asked.headers["location"]) == (303, "/dead-letters/shop/1/edit")


def acting(desk: Desk, **changed: str) -> Response:
    fields = {"csrf": desk.csrf(), "service": "shop", "id": "1", **changed}
    return desk.browser.post("/act/dismiss", data=fields)


def test_a_form_without_its_secret_does_nothing(desk: Desk) -> None:
    assert acting(desk, csrf="").status_code == 403
    assert acting(desk, csrf="x" * 22).status_code == 403
    assert acting(desk, csrf="é").status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_form_of_another_site_does_nothing(desk: Desk, headers: dict[str, str]) -> None:
    fields = {"csrf": desk.csrf(), "service": "shop", "id": "1", "reason": "why"}

    answer = desk.browser.post("/act/dismiss", data=fields, headers=headers)
    assert answer.status_code == 403
    assert "Nothing was done" in answer.text


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({"service": "nowhere", "reason": "why"}, 404, "shows no service nowhere"),
        ({"reason": ""}, 409, "the reason is empty"),
        ({"reason": " \n"}, 409, "the reason is empty"),
        ({"reason": "x" * 3_000}, 409, "more than 2,000 characters"),
        ({"reason": "x" * 70_000}, 413, "more than 64,000 bytes"),
        ({"reason": "\U0001f62c" * 2_000, "id": "-1"}, 409, "is not a number"),
        ({"id": "", "reason": "why"}, 409, "id is missing"),
        ({"id": "-1", "reason": "why"}, 409, "is not a number"),
        ({"id": "٣", "reason": "why"}, 409, "is not a number"),
        ({"id": "9" * 30, "reason": "why"}, 409, "is not a number"),
        ({"reason": "why\0not"}, 409, "reason has a NUL character"),
    ],
)
def test_what_is_incomplete_is_refused_in_words(desk: Desk, changed: dict[str, str], status: int, words: str) -> None:
    answer = acting(desk, **changed)

    assert words in answer.text
    assert answer.status_code == status


def test_a_database_that_is_down_is_said_and_no_page_breaks(desk: Desk) -> None:
    for page in ("/dead-letters", "/dead-letters/shop/1", "/dead-letters/shop/1/edit", "/waiting", "/decisions"):
        answer = desk.browser.get(page)
        assert answer.status_code == 503, page
        assert "The database of shop has no answer to this" in answer.text
        assert SECRET not in answer.text
    answer = acting(desk, reason="why")
    assert answer.status_code == 409
    assert "Not done" in answer.text
    assert SECRET not in answer.text


def test_a_target_with_too_long_a_number_is_refused_in_words(desk: Desk) -> None:
    fields = {"csrf": desk.csrf(), "service": "shop", "target": f"store.events[{'9' * 5_000}]", "key": "61"}
    answer = desk.browser.post("/act/retry-key", data=fields)

    assert (answer.status_code, "is not an input" in answer.text) == (409, True), answer.text


def test_a_page_after_too_long_a_number_is_the_first_one(desk: Desk) -> None:
    answer = desk.browser.get(f"/dead-letters?service=shop&after={'9' * 5_000}")

    assert "The database of shop has no answer to this" in answer.text  # it came as far as that


def test_an_address_without_meaning_lets_nobody_send_a_form() -> None:
    desk = Desk(scopes=("console:read",))
    answer = desk.browser.post("/login", data={"token": desk.secret}, headers={"Origin": "http://["})

    assert (answer.status_code, "Another site" in answer.text) == (403, True)


def test_a_form_that_breaks_off_is_no_defect(desk: Desk) -> None:
    """The browser is gone: nobody reads the answer, and no log tells of a failure."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": "/login", "query_string": b"", "headers": headers}
    asyncio.run(desk.application(scope, receive, send))

    assert sent[0]["status"] == 400


def test_a_defect_makes_a_browser_careful_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.console.application.acts.act", lambda *_: 1 / 0)
    answer = acting(desk, reason="why")

    assert answer.status_code == 500
    assert {name: answer.headers.get(name) for name in access.HEADERS} == access.HEADERS


def test_too_many_acts_at_once_are_told_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise NoFreeConnection("QueuePool limit of size 2 overflow 0 reached")

    monkeypatch.setattr("shared.console.acts.dismissing.dismiss", full)
    answer = acting(desk, reason="why")

    assert (answer.status_code, "others are acting on shop" in answer.text) == (409, True), answer.text
    assert "QueuePool" not in answer.text


class Lock:
    """Acts wait for it."""

    def __init__(self) -> None:
        self.free, self.waiting = threading.Event(), 0

    def wait(self, *_: object, **__: object) -> bool:
        self.waiting += 1
        return self.free.wait(SECONDS_MAX)


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lock]:
    made = Lock()
    monkeypatch.setattr("shared.console.acts.dismissing.dismiss", made.wait)
    yield made
    made.free.set()


def test_an_act_that_outlasts_the_console_is_answered(desk: Desk, lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its browser would else be told of a failure, while the thread goes on."""
    monkeypatch.setattr("shared.console.application.ENDING_SECONDS", 0.1, raising=False)
    monkeypatch.setattr("shared.console.application.POLL_SECONDS", 0.1, raising=False)
    desk.application = make_application(desk.board, desk.settings, "shop", stopping=lambda: True)
    desk.browser = Browser(desk.application)
    fields = {"csrf": desk.csrf(), "service": "shop", "id": "1", "reason": "why"}

    async def ask() -> Response:
        transport = httpx.ASGITransport(desk.application)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", cookies=desk.browser.cookies
        ) as client:
            answer = await asyncio.wait_for(client.post("/act/dismiss", data=fields), SECONDS_MAX)
            lock.free.set()
            return answer

    answer = asyncio.run(ask())
    assert (answer.status_code, "Decisions will say what came of it" in answer.text) == (503, True), answer.text


def test_no_page_waits_for_acts(desk: Desk, lock: Lock) -> None:
    fields = {"csrf": desk.csrf(), "service": "shop", "id": "1", "reason": "why"}

    async def ask() -> tuple[Response, list[Response]]:
        transport = httpx.ASGITransport(desk.application)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", cookies=desk.browser.cookies
        ) as client:
            acts = [asyncio.create_task(client.post("/act/dismiss", data=fields)) for _ in range(2 * THREADS)]
            try:
                while lock.waiting < ACTS_MAX:
                    await asyncio.sleep(0.01)
                page = await asyncio.wait_for(client.get("/decisions"), SECONDS_MAX / 2)
            finally:
                lock.free.set()
            return page, await asyncio.gather(*acts)

    page, done = asyncio.run(ask())
    assert page.status_code == 503  # its database does not answer, and it was asked
    assert [answer.status_code for answer in done] == [200] * 2 * THREADS


@pytest.mark.parametrize(
    "place",
    [
        "/confirm/redrive?service=shop",
        "/confirm/give-up-key?service=shop&target=a&key=zz&offset=1",
        "/dead-letters/shop/99999999999999999999",
        f"/dead-letters/shop/{'9' * 5_000}",
        f"/dead-letters/shop/{'9' * 5_000}/edit",
        "/dead-letters/shop/1.5",
        "/dead-letters?service=shop&topic=a%00b",
        "/story?id=a%00b",
        "/confirm/dismiss-all?service=shop&error=%00",
        "/dead-letters?service=nowhere",
        "/live/nowhere",
        "/act/dismiss",
    ],
)
def test_an_address_that_means_nothing_has_an_answer(desk: Desk, place: str) -> None:
    answer = desk.browser.get(place)

    assert 400 <= answer.status_code < 500 or "key" in place
    assert "<h1>" in answer.text


def test_a_confirmation_says_what_follows(desk: Desk) -> None:
    hostile = "<script>alert(1)</script>\x1b[2J"
    page = desk.browser.get("/confirm/cancel-event", params={"service": "shop", "name": hostile, "event_id": "e"}).text

    assert "This event is never published" in page
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert "Cancel &lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J?" in page
