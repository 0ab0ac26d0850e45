"""The pages of the console, and the addresses where they are.

A page that is added is one function and one line in `make_application`.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial, wraps
from secrets import token_urlsafe
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import anyio
import anyio.to_thread
import structlog
from anyio import CapacityLimiter
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import CommandFailed
from ..operations import calls, dead_letters, decision_list, dismissing, editing, inputs, schedule
from ..operations.output import REASON_MAX
from ..operations.story_telling import Story, tell
from ..postgres import parked
from ..settings import Settings
from . import access, acts, pages, reading
from .access import Door, Refused, Visitor
from .board import Board, Page
from .estate import Known
from .looks import words
from .sight import FLOW_SECONDS

ROWS = 50
"""Of a list on one page."""
THREADS = 6
"""Pages that read at the same time; others wait."""
ACTS_MAX = 4
"""Acts at the same time. One may wait for locks for long, and no page for it."""
ENDING_SECONDS = 3.0
"""How long an act has once the console is told to end: less than its open pages, so that they are answered."""
POLL_SECONDS = 0.5
"""How often an act looks whether the console is told to end."""
STORIES_MAX = 2
"""Stories that are told at the same time: each asks all databases, and reads topics for some seconds."""
WATCHERS_MAX = 40
"""Open streams. They cost little, but each is a connection."""
ALIVE_SECONDS = 15.0
"""A stream says something at least this often: a proxy closes a silent one."""
STATES = ("open", "redriven", "dismissed")

_log = structlog.get_logger(__name__)
Found = TypeVar("Found")
Show = Callable[["Console", Request, Visitor], Awaitable[Response]]


class Console:
    """What the pages share."""

    def __init__(self, board: Board, door: Door, stopping: Callable[[], bool]) -> None:
        self.board, self.door, self.stopping = board, door, stopping
        self.watchers = 0
        self.limiter = CapacityLimiter(THREADS)
        self.acting = CapacityLimiter(ACTS_MAX)
        self.telling = CapacityLimiter(STORIES_MAX)

    async def aside(self, work: Callable[[], Found]) -> Found:
        """Run what waits for a server on a thread."""
        return await anyio.to_thread.run_sync(work, limiter=self.limiter)

    async def act(self, work: Callable[[], acts.Outcome]) -> acts.Outcome:
        """Run what changes something on a thread. Raises `Refused` if the console is told to end and it does not.

        Nothing breaks it off, and the process waits for it; its transaction, and its row in the decisions, are whole.
        """
        task = asyncio.ensure_future(anyio.to_thread.run_sync(work, limiter=self.acting))
        left = ENDING_SECONDS
        while not (await asyncio.wait({task}, timeout=POLL_SECONDS))[0]:
            left -= POLL_SECONDS if self.stopping() else 0
            if left <= 0:
                raise Refused(503, "The console ends, and this is still under way. Decisions will say what came of it.")
        return task.result()

    def page(self, template: str, visitor: Visitor | None, status: int = 200, **facts: object) -> HTMLResponse:
        """Answer with a page. Whoever reads it sees the counts of problems in its head, so the looks go on."""
        if visitor is not None:
            self.board.watch.touch()
        common, _ = self.board.facts("flow")
        everything = {**common, "visitor": visitor, "title": "", "page": "", **facts}
        return HTMLResponse(pages.render(template, everything), status)

    def service(self, name: str) -> Known:
        """Return a service. Raises `Refused` if it is not shown here."""
        found = self.board.known.get(name)
        if found is None:
            raise Refused(404, f"This console shows no service {name[:100] or 'without a name'}.")
        return found

    async def read(self, known: Known, read: Callable[[Any], Found]) -> Found:
        """Read from the database of a service, in one short transaction. Raises `Refused` if it does not answer."""

        def work() -> Found:
            with known.reading.engine.connect() as connection, connection.begin():
                return read(connection)

        try:
            return await self.aside(work)
        except (DBAPIError, NoFreeConnection) as error:
            raise Refused(503, f"The database of {known.name} has no answer to this: {words(error)}") from error


def make_application(
    board: Board, settings: Settings, service: str, stopping: Callable[[], bool] = lambda: False
) -> Starlette:
    """Put the console together. Raises `Misconfigured` for settings with which nobody could use it, or everybody."""
    access.refuse_open_to_all(settings)
    console = Console(board, Door(settings, service), stopping)
    shown = partial(_let_in, console)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        board.start()
        yield
        board.watch.end()

    return Starlette(
        routes=[
            Route("/", shown(_flow)),
            Route("/problems", shown(_problems)),
            Route("/audit/{service}", shown(_audit), methods=["POST"]),
            Route("/story", shown(_story)),
            Route("/dead-letters", shown(_dead_letters)),
            Route("/dead-letters/{service}/{number}", shown(_dead_letter)),
            Route("/dead-letters/{service}/{number}/edit", shown(_edit), methods=["GET", "POST"]),
            Route("/waiting", shown(_waiting)),
            Route("/decisions", shown(_decisions)),
            Route("/confirm/{act}", shown(_confirm)),
            Route("/act/{act}", shown(_act), methods=["POST"]),
            Route("/live/{page}", shown(_live)),
            Route("/login", _plain(console, _login), methods=["GET", "POST"]),
            Route("/logout", _plain(console, _logout), methods=["POST"]),
            Route("/static/{digest}/{name}", _static),
            Route("/favicon.ico", _icon),
            Route("/health/ready", _ready),
        ],
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=access.names(settings, settings.console_host)),
            Middleware(
                SessionMiddleware,
                secret_key=token_urlsafe(32),
                session_cookie=f"console-{settings.console_port}",  # a cookie is for all ports of its host
                max_age=access.LASTS_SECONDS,
                same_site="strict",
                https_only=bool(settings.console_names),
            ),
        ],
        exception_handlers={
            Refused: partial(_refused, console),
            HTTPException: partial(_not_there, console),
            Exception: _defect,
        },
        lifespan=lifespan,
    )


class _Headers:
    """Adds to each answer what makes a browser careful."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.lower().encode(), value.encode())
                        for name, value in access.HEADERS.items()
                        if name.lower().encode() not in there
                    ),
                ]
            await send(message)

        await self._app(scope, receive, add if scope["type"] == "http" else send)


def _let_in(console: Console, show: Show) -> Callable[[Request], Awaitable[Response]]:
    """Show a page to those who may look; others are asked for their token."""

    @wraps(show)
    async def shown(request: Request) -> Response:
        visitor = console.door.visitor(request)
        if visitor is None:
            if request.method != "GET" or request.url.path.startswith("/live/"):
                raise Refused(401, "Your login has ended, or you had none. Log in again; nothing was done.")
            place = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/login?{urlencode({'next': place})}", 303)
        return await show(console, request, visitor)

    return shown


def _plain(
    console: Console, show: Callable[[Console, Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    return wraps(show)(partial(show, console))


# ---- what flows, and what is wrong


async def _flow(console: Console, _request: Request, visitor: Visitor) -> Response:
    await console.aside(console.board.await_first)
    return _live_page(console, "flow", visitor, "What flows")


async def _problems(console: Console, _request: Request, visitor: Visitor) -> Response:
    await console.aside(console.board.await_first)
    return _live_page(console, "problems", visitor, "What is wrong")


async def _audit(console: Console, request: Request, visitor: Visitor) -> Response:
    """Begin an audit: it only reads, so whoever may look may ask for it. If one runs already, that is the answer."""
    await access.form(request, visitor)
    known = console.service(request.path_params["service"])
    begun = console.board.audits.start(known.name)
    _log.info("console_audit", service=known.name, by=visitor.name, begun=begun)
    return RedirectResponse("/problems#audit", 303)


def _live_page(console: Console, page: Page, visitor: Visitor, title: str) -> Response:
    facts, _ = console.board.facts(page)
    return HTMLResponse(pages.render(f"{page}.html", {**facts, "visitor": visitor, "title": title}))


async def _live(console: Console, request: Request, visitor: Visitor) -> Response:
    """Send what changes, as server-sent events."""
    name = request.path_params["page"]
    if name not in ("flow", "problems"):
        raise Refused(404, "There is no such page.")
    if console.watchers >= WATCHERS_MAX:
        raise Refused(503, f"{WATCHERS_MAX} windows watch already. Close one, or reload this page by hand.")
    return StreamingResponse(_changes(console, request, name, visitor), media_type="text/event-stream")


async def _changes(console: Console, request: Request, page: Page, _visitor: Visitor) -> AsyncIterator[str]:
    sent: pages.Fragments = {}
    said = time.monotonic()
    console.watchers += 1
    try:
        while not console.stopping() and console.door.visitor(request) is not None:
            console.board.watch.touch()
            found = console.board.fragments(page)
            changed = {name: fragment for name, fragment in found.items() if sent.get(name) != fragment}
            sent = found
            if changed:
                yield f"data: {json.dumps(changed)}\n\n"
                said = time.monotonic()
            elif time.monotonic() - said > ALIVE_SECONDS:
                yield ": nothing new\n\n"
                said = time.monotonic()
            await anyio.sleep(FLOW_SECONDS)
    finally:
        console.watchers -= 1


# ---- one order followed


async def _story(console: Console, request: Request, visitor: Visitor) -> Response:
    wanted = access.facts(request, "id")["id"].strip()
    found, why = None, ""
    if wanted:
        work = partial(_told, list(console.board.known.values()), wanted)
        found, why = await anyio.to_thread.run_sync(work, limiter=console.telling)
    return console.page(
        "story.html",
        visitor,
        200 if found or not wanted else 404,
        title="One order",
        page="story",
        wanted=wanted,
        found=found,
        why=why,
    )


def _told(known: Sequence[Known], wanted: str) -> tuple[Story | None, str]:
    """Return the story of a key or an event's id, or why there is none."""
    if not known:
        return None, "This console can show no service."
    engines = {one.name: one.reading.engine for one in known}
    try:
        found = tell(known[0].reading, engines, wanted, services=[one.service for one in known])
    except CommandFailed as error:
        return None, f"{str(error)[:1].upper()}{str(error)[1:]}."
    return found, "" if found.entries else "Nobody has it as a key, or as an event's id."


# ---- lists, and what they are made of


async def _dead_letters(console: Console, request: Request, visitor: Visitor) -> Response:
    asked = access.facts(request, "service", "state", "topic", "error", "after")
    known = console.service(asked["service"] or console.board.first("dead-letters"))
    state = asked["state"] if asked["state"] in STATES else "open"
    after = acts.whole(asked["after"]) or 0
    chosen = {"topic": asked["topic"] or None, "error": asked["error"] or None}

    def read(connection: Any) -> tuple[list[dead_letters.Brief], list[dead_letters.Alike], dict[int, int]]:
        found = dead_letters.brief(
            connection,
            state=state,  # type: ignore[arg-type]
            after=after,
            most=ROWS + 1,
            **chosen,
        )
        edits = editing.decisions(connection, [one.id for one in found])
        return found, dead_letters.alike(connection), edits

    found, alike, edits = await console.read(known, read)
    return console.page(
        "dead_letters.html",
        visitor,
        title="Dead letters",
        page="dead-letters",
        service=known.name,
        found=found[:ROWS],
        more=found[ROWS - 1].id if len(found) > ROWS else None,
        alike=alike,
        edits=edits,
        asked={**asked, "state": state},
        link=lambda **changed: f"/dead-letters?{urlencode({**asked, 'service': known.name, 'after': '', **changed})}",
        confirm=_confirm_link,
        states=STATES,
        after=after,
    )


async def _dead_letter(console: Console, request: Request, visitor: Visitor) -> Response:
    return await console.aside(partial(_dead_letter_page, console, visitor, *await _found(console, request)))


def _dead_letter_page(
    console: Console, visitor: Visitor, known: Known, found: dead_letters.Beginning, edit: editing.Edit | None
) -> Response:
    """Spell what somebody has sent; that may take a while."""
    letter, number = found.letter, found.letter.id
    whole = not found.is_cut and edit is not None and len(edit.value) == edit.size
    return console.page(
        "dead_letter.html",
        visitor,
        title=f"Dead letter {number}",
        page="dead-letters",
        service=known.name,
        letter=letter,
        found=found,
        value=reading.value(letter.record.value, found.value_bytes),
        edit=edit,
        edited=reading.value(edit.value, edit.size) if edit else None,
        lines=reading.changes(letter.record.value, edit.value) if whole and edit else [],
        key=reading.value(letter.record.key, found.key_bytes),
        headers=reading.headers(found),
        traceback=reading.lines(letter.traceback or ""),
        detail=reading.lines(letter.detail),
        command=known.reading.command(f"dead-letters show {number}").strip("`"),
        bytes_max=reading.VALUE_BYTES_MAX,
        confirm=_confirm_link,
    )


async def _found(console: Console, request: Request) -> tuple[Known, dead_letters.Beginning, editing.Edit | None]:
    """Return a dead letter and its newest edit, as much as a page shows of both. Raises `Refused`."""
    known = console.service(request.path_params["service"])
    number = acts.whole(request.path_params["number"])
    if number is None:
        raise Refused(404, f"{known.name} has no dead letter of this number.")

    def read(connection: Any) -> tuple[dead_letters.Beginning | None, editing.Edit | None]:
        found = dead_letters.beginning(connection, number, reading.VALUE_BYTES_MAX)
        return found, editing.newest(connection, number, reading.VALUE_BYTES_MAX)

    found, edit = await console.read(known, read)
    if found is None:
        raise Refused(404, f"{known.name} has no dead letter {number}: there is none, or no longer.")
    return known, found, edit


async def _edit(console: Console, request: Request, visitor: Visitor) -> Response:
    """Show the form with the value, and, for what was typed into it, the difference and what comes of it."""
    act = acts.ACTS["edit"]
    given = await access.form(request, visitor, access.EDITED_BYTES_MAX) if request.method == "POST" else None
    if not visitor.may(act.scope):
        raise Refused(403, f"Your token does not have the scope {act.scope}. Nothing was done.")
    return await console.aside(partial(_edit_page, console, visitor, *await _found(console, request), given=given))


def _edit_page(
    console: Console,
    visitor: Visitor,
    known: Known,
    found: dead_letters.Beginning,
    edit: editing.Edit | None,
    *,
    given: Mapping[str, str] | None,
) -> Response:
    """Show the form, or what `given` changes. Raises `Refused`."""
    act, letter, number = acts.ACTS["edit"], found.letter, found.letter.id
    if letter.redriven_at or letter.dismissed_at:
        raise Refused(409, f"Dead letter {number} was {'redriven' if letter.redriven_at else 'dismissed'} already.")
    value, size = (edit.value, edit.size) if edit else (letter.record.value, found.value_bytes)
    offered = reading.editable(value, size)
    base = str(edit.decision if edit else 0)
    facts: dict[str, Any] = {
        "title": act.title.format(id=number),
        "page": "dead-letters",
        "service": known.name,
        "letter": letter,
        "act": act,
        "edit": edit,
        "base": base,
        "offered": offered,
        "why": "",
        "reason": (given or {}).get("reason", "")[:REASON_MAX],
        "command": known.reading.command(f"dead-letters edit {number} --value FILE --reason WHY").strip("`"),
    }
    if given is None or offered.why_not:
        return console.page("edit.html", visitor, text=offered.text, **facts)
    text = given.get("value", "")
    if given.get("again") == "yes":
        again = editing.pretty(text.encode()) or text
        return console.page("edit.html", visitor, text=again, **{**facts, "base": given.get("base", base)})
    if given.get("base", "") != base:
        why = f"It was edited meanwhile, by {edit}. Look at that first; below is what you have typed."
        return console.page("edit.html", visitor, 409, text=text, **{**facts, "why": why})
    typed = text.encode()
    if editing.shown(typed) == editing.shown(value):
        return console.page("edit.html", visitor, 409, text=text, **{**facts, "why": "This is the value that it has."})
    record = letter.record._replace(value=value)
    refusal = editing.refusal(known.acting, letter._replace(record=record), typed)
    return console.page(
        "edit_confirm.html",
        visitor,
        value=editing.minified(typed).decode(),
        lines=reading.changes(value, typed),
        refusal=refusal,
        reason_max=REASON_MAX,
        **facts,
    )


async def _waiting(console: Console, request: Request, visitor: Visitor) -> Response:
    asked = access.facts(request, "service")
    known = console.service(asked["service"] or console.board.first("waiting"))

    def read(connection: Any) -> dict[str, Any]:
        return {
            "keys": parked.keys(connection, most=ROWS + 1),
            "scheduled": schedule.listed(connection, ROWS + 1),
            "called": calls.listed(connection, ROWS + 1) if known.calls else [],
            "inputs": inputs.listed(connection, known.service),
        }

    found = await console.read(known, read)
    return console.page(
        "waiting.html",
        visitor,
        title="What waits",
        page="waiting",
        service=known.name,
        rows=ROWS,
        makes_calls=bool(known.calls),
        confirm=_confirm_link,
        spelled=lambda key: key.decode(errors="backslashreplace"),
        **found,
    )


async def _decisions(console: Console, request: Request, visitor: Visitor) -> Response:
    asked = access.facts(request, "service")
    known = console.service(asked["service"] or next(iter(console.board.known), ""))
    found = await console.read(known, lambda c: decision_list.listed(c, source=None, most=ROWS + 1))
    return console.page(
        "decisions.html",
        visitor,
        title="Decisions",
        page="decisions",
        service=known.name,
        found=found[:ROWS],
        more=len(found) > ROWS,
        facts=lambda facts: decision_list.in_words(facts, without=("by", "reason", "sha256")),
    )


# ---- what may be done


def _confirm_link(act: str, service: str, **fields: object) -> str:
    """Return the address of the page that asks first."""
    return f"/confirm/{act}?{urlencode({'service': service, **fields})}"


def _chosen(console: Console, request: Request, visitor: Visitor, fields: Mapping[str, str]) -> tuple[acts.Act, Known]:
    """Return what is to be done, and where. Raises `Refused`."""
    act = acts.ACTS.get(request.path_params["act"])
    if act is None:
        raise Refused(404, "There is nothing of this name to do.")
    known = console.service(fields.get("service", ""))
    if not visitor.may(act.scope):
        raise Refused(403, f"Your token does not have the scope {act.scope}. Nothing was done.")
    return act, known


async def _confirm(console: Console, request: Request, visitor: Visitor) -> Response:
    act = acts.ACTS.get(request.path_params["act"])
    asked = access.facts(request, "service", *(act.fields if act else ()))
    act, known = _chosen(console, request, visitor, asked)
    if act.place:
        if not asked["id"]:
            raise Refused(400, "This address is incomplete: the number is missing.")
        try:
            place = act.place.format(service=quote(known.name, safe=""), id=acts.number(asked))
        except CommandFailed as error:
            raise Refused(400, f"{error}.") from None
        return RedirectResponse(place, 303)
    if "up_to_id" in act.fields:
        found = await console.read(known, lambda c: dismissing.matching(c, **acts.chosen(asked)))
        if not found.number:
            raise Refused(409, "No such dead letter waits.")
        asked = {**asked, "number": str(found.number), "up_to_id": str(found.last)}
    try:
        acts.refuse_incomplete(act, asked, confirmed=False)
    except CommandFailed as error:
        raise Refused(400, f"{error}.") from None
    return console.page(
        "confirm.html",
        visitor,
        title=act.title.format_map(asked),
        act=act,
        service=known.name,
        fields={name: asked[name] for name in act.fields if asked[name]},
        key=_key(asked.get("key", "")),
        back=_back(act, known, asked),
        reason_max=REASON_MAX,
    )


def _key(written: str) -> str:
    try:
        return bytes.fromhex(written).decode(errors="backslashreplace")
    except ValueError:
        return ""


async def _act(console: Console, request: Request, visitor: Visitor) -> Response:
    most = access.EDITED_BYTES_MAX if request.path_params["act"] == "edit" else access.BODY_BYTES_MAX
    fields = await access.form(request, visitor, most)
    fields |= access.spelled(fields.pop("about", ""))
    act, known = _chosen(console, request, visitor, fields)
    given = {name: fields.get(name, "") for name in (*act.fields, "reason")}
    for field, scope in act.also:
        if given[field] == "yes" and not visitor.may(scope):
            raise Refused(403, f"Your token does not have the scope {scope}. Nothing was done.")
    outcome = await console.act(lambda: acts.act(act, known, given, visitor.name))
    _log.info("console_act", act=act.name, service=known.name, by=visitor.name, good=outcome.good)
    return console.page(
        "outcome.html",
        visitor,
        title=act.title.format_map(given),
        service=known.name,
        outcome=outcome,
        back=_back(act, known, given),
        status=200 if outcome.good else 409,
    )


def _back(act: acts.Act, known: Known, given: Mapping[str, str]) -> str:
    """Return where it goes on: at what was acted upon, if it is still there, or at the list."""
    name = quote(known.name, safe="")
    if not act.scope.startswith("dead"):
        return f"/waiting?service={name}"
    number = acts.whole(given.get("id", ""))
    return f"/dead-letters?service={name}" if number is None else f"/dead-letters/{name}/{number}"


# ---- logging in, and files


async def _login(console: Console, request: Request) -> Response:
    if request.method == "GET":
        place = request.query_params.get("next", "/")
        return console.page("login.html", None, title="Log in", next=_own(place), why="")
    fields = await access.form(request, None)
    try:
        console.door.log_in(request, fields.get("token", ""))
    except Refused as refused:
        place = _own(fields.get("next", "/"))
        return console.page("login.html", None, refused.status, title="Log in", next=place, why=str(refused))
    return RedirectResponse(_own(fields.get("next", "/")), 303)


def _own(place: str) -> str:
    """Return a place on this site; another one would lead away from it."""
    return place if place.startswith("/") and not place.startswith(("//", "/\\")) and place.isprintable() else "/"


async def _logout(console: Console, request: Request) -> Response:
    await access.form(request, console.door.visitor(request))
    console.door.log_out(request)
    return RedirectResponse("/login", 303)


async def _static(request: Request) -> Response:
    found = pages.ASSETS.find(request.path_params["digest"], request.path_params["name"])
    if found is None:
        raise HTTPException(404)
    content, kind = found
    return Response(content, headers={"Cache-Control": pages.FOR_EVER, "Content-Type": kind})


async def _icon(_request: Request) -> Response:
    return RedirectResponse(pages.ASSETS.address("icon.svg"), 301)


async def _ready(_request: Request) -> Response:
    """Report that pages are served. It asks no server: what is down is what a console has to show."""
    return PlainTextResponse("ready\n")


# ---- what is not answered


def _visitor(console: Console, request: Request) -> Visitor | None:
    return console.door.visitor(request) if "session" in request.scope else None


async def _refused(console: Console, request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    visitor = _visitor(console, request)
    return console.page("message.html", visitor, error.status, title="Not done", words=str(error))


async def _not_there(console: Console, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {404: "There is no such page.", 405: "This address takes another method."}
    told = known.get(error.status_code, error.detail)
    return console.page("message.html", _visitor(console, request), error.status_code, title="Not here", words=told)


async def _defect(request: Request, error: Exception) -> Response:
    _log.error("console_failed", path=request.url.path[:200], error=type(error).__name__, exc_info=error)
    page = "<!doctype html><title>Not shown</title><p>The console has failed here; its log says why."
    return HTMLResponse(page, 500, access.HEADERS)  # it is outside of `_Headers`
