"""What a service declares about its calls: where they go, what is asked, what an answer means, and what if none
comes.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..errors import ExactlyOnceError
from ..events import VERSION_MAX, Event
from ..session import Session

WITHIN_MAX = timedelta(days=3_653)
"""Ten years. Beyond it PostgreSQL's interval still works, and the declaration is surely a mistake."""

ATTEMPTS_MAX = 1_000_000

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A method, or the name of a header (RFC 9110)."""

OURS = frozenset(
    {"idempotency-key", "traceparent", "tracestate", "host", "content-length", "transfer-encoding", "accept-encoding"}
)
"""Headers that the caller sets. Never `baggage`: what a third party may know of it, a request says itself."""


class AnswerUnreadable(ExactlyOnceError):
    """The body of the answer is not what the service expects of it."""


class RequestRefused(ExactlyOnceError):
    """The service's own request cannot be sent to anybody."""


@dataclass(frozen=True)
class Request:
    """What is sent. The caller adds the destination's headers, `Idempotency-Key`, and the trace."""

    method: str
    path: str
    """Behind the destination's URL; begins with `/`, and may have a query."""
    json: Any = None
    content: bytes | None = None
    """A body that is not JSON; name its `Content-Type` in `headers`."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise `RequestRefused` for what no destination could get."""
        if not TOKEN.fullmatch(self.method):
            raise RequestRefused(f"{self.method!r} is not a method of HTTP, such as POST")
        if not self.path.startswith("/") or not self.path.isascii() or not self.path.isprintable() or " " in self.path:
            raise RequestRefused(
                f"the path {self.path[:200]!r} does not begin with `/`, or needs urllib.parse.quote: it is printable "
                "ASCII without blanks"
            )
        if self.json is not None and self.content is not None:
            raise RequestRefused("a request has `json` or `content`, not both")
        if not isinstance(self.content, bytes | None):
            raise RequestRefused(f"the content is {type(self.content).__name__}; it is bytes")
        for name, value in self.headers.items():
            if not TOKEN.fullmatch(name) or name.lower() in OURS:
                raise RequestRefused(f"{name!r} is not a header that a request sets")
            if not value.isascii() or not (value.isprintable() and value == value.strip()):
                raise RequestRefused(f"the header {name} holds what a header cannot: printable ASCII is expected")


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """By their names in lower case; several of one name are joined by commas."""
    body: bytes
    cut: bool = False
    """Whether the body was longer than the destination's `answer_bytes_max`; the rest was not read."""

    @property
    def meaning(self) -> Literal["done", "again", "never"]:
        """What the status means by the standards: 2xx is done; 408, 409, 425, 429 and 5xx are asked again; all others
        are refusals, redirects among them: they are not followed.

        409 is the answer while the first request with this `Idempotency-Key` is still under way
        (https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/). A destination that means
        something else by it needs a rule of its own.
        """
        if 200 <= self.status < 300:
            return "done"
        return "again" if self.status in (408, 409, 425, 429) or self.status >= 500 else "never"

    @property
    def retry_after(self) -> float:
        """The seconds of `Retry-After`; 0 if it is not there, or not a number of seconds."""
        found = self.headers.get("retry-after", "").strip()
        return float(found) if re.fullmatch(r"\d{1,9}", found) else 0.0

    def json(self) -> Any:
        """Return the body as JSON. Raises `AnswerUnreadable`: the call then waits, and an operator sees why."""
        if self.cut:
            raise AnswerUnreadable(
                f"the answer, {self.status}, is longer than the {len(self.body)} bytes that are read"
            )
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise AnswerUnreadable(f"the answer, {self.status}, is not JSON: {error}") from None


@dataclass(frozen=True, init=False)
class Done:
    """The destination did it: these events are published, and the call is finished."""

    events: tuple[Event, ...]

    def __init__(self, *events: Event) -> None:
        object.__setattr__(self, "events", events)


@dataclass(frozen=True, init=False)
class Never:
    """The destination refuses for good: these events are published, and the call is finished."""

    why: str
    events: tuple[Event, ...]

    def __init__(self, why: str, *events: Event) -> None:
        _refuse_no_text(type(self).__name__, why)
        object.__setattr__(self, "why", why)
        object.__setattr__(self, "events", events)


@dataclass(frozen=True)
class Again:
    """Ask again, after a pause of at least `after` seconds. What the function changed is undone."""

    why: str
    after: float = 0.0

    def __post_init__(self) -> None:
        """Raise `TypeError` for what cannot be kept with the call, or waited for."""
        _refuse_no_text(type(self).__name__, self.why)
        if not isinstance(self.after, int | float):
            raise TypeError(f"Again: `after` is {type(self.after).__name__}; it is a number of seconds")


def _refuse_no_text(name: str, why: Any) -> None:
    if not isinstance(why, str):
        raise TypeError(f"{name}: the reason is {type(why).__name__}; it is a text")


Verdict = Done | Again | Never


@dataclass(frozen=True)
class GivenUp:
    """Why no answer will come."""

    reason: Literal["attempts", "deadline", "operator"]
    attempts: int
    """How often the destination was asked."""
    maybe_done: bool
    """Whether the destination may have done it all the same: some attempt may have reached it. What is published must
    be right in both cases, or another call has to find out or to undo.
    """
    last_failure: str


def _nothing(_settings: Any) -> Mapping[str, str]:
    return {}


def _no_path(_settings: Any) -> Path | None:
    return None


@dataclass(frozen=True)
class Destination:
    """A third party, and how it is asked. All callers of a service share the limits of one."""

    name: str
    """In metrics, logs and the table; letters, digits, `.`, `_` and `-`."""
    url: Callable[[Any], str] = field(kw_only=True)
    """Returns the beginning of all its URLs, from the service's settings."""
    headers: Callable[[Any], Mapping[str, str]] = field(default=_nothing, kw_only=True)
    """Returns what each request carries, such as `Authorization`, from the service's settings."""
    ca: Callable[[Any], Path | None] = field(default=_no_path, kw_only=True)
    """Returns a PEM file of authorities that its certificate is checked against, instead of the public ones."""
    connect_seconds: float = field(default=3.0, kw_only=True)
    seconds: float = field(default=10.0, kw_only=True)
    """For a whole attempt, however slowly the answer drips."""
    concurrency: int = field(default=8, kw_only=True)
    """Calls under way at the same time."""
    per_second: float = field(default=0.0, kw_only=True)
    """Attempts a second; 0: no limit."""
    answer_bytes_max: int = field(default=1_000_000, kw_only=True)
    pause_seconds_min: float = field(default=0.5, kw_only=True)
    """Before the second attempt; it doubles with each further one."""
    pause_seconds_max: float = field(default=60.0, kw_only=True)
    failures_max: int = field(default=5, kw_only=True)
    """Failures in a row, of any calls, after which a caller stops asking; a server's own errors, 5xx, are some."""
    rest_seconds: float = field(default=5.0, kw_only=True)
    """How long it stops, before one call tries."""

    def __post_init__(self) -> None:
        """Raise `TypeError` or `ValueError` for what cannot work."""
        given: Any = self.name
        if not isinstance(given, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", given):
            raise ValueError(f"Destination({given!r}): a name has letters, digits, `.`, `_` and `-`, at most 200")
        for name in ("url", "headers", "ca"):
            if not callable(getattr(self, name)):
                raise TypeError(
                    f"Destination({given!r}): `{name}` is a function of the settings: "
                    f"`{name}=lambda settings: settings.{given}_{name}`"
                )
        bounds = {
            "connect_seconds": (0.001, 60),
            "seconds": (0.001, 600),
            "concurrency": (1, 1_000),
            "per_second": (0, 1_000_000),
            "answer_bytes_max": (0, 100_000_000),
            "pause_seconds_min": (0.001, 86_400),
            "pause_seconds_max": (self.pause_seconds_min, 86_400),
            "failures_max": (1, 1_000_000),
            "rest_seconds": (0.001, 86_400),
        }
        for name, (least, most) in bounds.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"Destination({given!r}): {name} is {getattr(self, name)!r}; it is from {least} to {most}"
                )
        for name in ("concurrency", "answer_bytes_max", "failures_max"):
            if not isinstance(getattr(self, name), int):
                raise TypeError(f"Destination({given!r}): {name} is {getattr(self, name)!r}; it is a whole number")


class Call(Event, topic=""):
    """One call to a third party. A subclass is one type of call: its fields are stored with the call, and its methods
    say what is asked, what an answer means, and what happens without one. It is never published.

    The class arguments are those of an event: `key` names the field that finds the aggregate. Calls of one key are made
    one after the other.
    """

    destination: ClassVar[Destination]
    attempts: ClassVar[int] = 20
    """So often the destination is asked."""
    within: ClassVar[timedelta] = timedelta(hours=1)
    """How long after its transaction the call is given up, if it is not done."""

    def request(self) -> Request:
        """Return what is sent. It is asked for before each attempt, and must be the same each time."""
        raise NotImplementedError

    def answered(self, answer: Answer, session: Session) -> Verdict:
        """Decide what an answer means, and change the rows that it concerns, in the transaction that finishes the call
        and publishes the events. The events need their aggregate locked, as in a handler.
        """
        raise NotImplementedError

    def given_up(self, why: GivenUp, session: Session) -> Event | Iterable[Event] | None:
        """Return what is published when no answer comes in time: the compensation. May change rows, and make other
        calls.
        """
        raise NotImplementedError


def call(session: Session, due: Call) -> None:
    """Make `due` when the transaction commits: a caller asks the destination from then on, once, as far as it honours
    the idempotency key. Raises `NotOwned` if its aggregate is neither locked nor new in this session.
    """
    if not isinstance(due, Call):
        raise TypeError(f"call() takes a Call, and got {type(due).__name__}; an event is published by session.publish")
    session.publish(due)


def refuse_wrong(calls: Collection[type[Call]], published: Collection[type[Event]]) -> None:
    """Refuse calls that no caller could make. Raises `TypeError` or `ValueError`, with what to write."""
    destinations: dict[str, Destination] = {}
    seen: set[tuple[str, int]] = set()
    for kind in calls:
        _refuse_alone(kind)
        name, to = kind.__name__, kind.destination
        if kind in published:
            raise TypeError(f"{name} is a call and not published: take it out of `publishes` of the Service")
        if destinations.setdefault(to.name, to) is not to:
            raise TypeError(f"{name}: there are two destinations with the name {to.name}: use one for both")
        if (name, kind.version) in seen:
            raise TypeError(f"two calls are {name}.v{kind.version}: give one another name or version")
        seen.add((name, kind.version))


def _refuse_alone(given: Any) -> None:
    """Refuse what is wrong with one of them; it may not have been type-checked."""
    if not (isinstance(given, type) and issubclass(given, Call)):
        raise TypeError(f"calls: {given!r} is not a class of calls: `calls = providers.Object((CapturePayment,))`")
    kind: Any = given
    name = kind.__name__
    if kind.topic:
        raise TypeError(f'{name} is a call, which has no topic: leave `topic="{kind.topic}"` out')
    if kind.key is Event.key:
        raise TypeError(f'{name} has no key: `class {name}(Call, key="...")`, the field that finds the aggregate')
    if type(kind.version) is not int or not 1 <= kind.version <= VERSION_MAX:
        raise ValueError(f"{name}: the version is {kind.version!r}; it is a whole number from 1 to {VERSION_MAX}")
    if not isinstance(getattr(kind, "destination", None), Destination):
        raise TypeError(f"{name} has no destination: write `destination = BANK` into it, a Destination")
    for method, advice in _MISSING.items():
        if getattr(kind, method) is getattr(Call, method):
            raise TypeError(f"{name} has no `{method}`: {advice}")
    if type(kind.attempts) is not int or not 1 <= kind.attempts <= ATTEMPTS_MAX:
        raise ValueError(f"{name}: attempts is {kind.attempts!r}; it is from 1 to {ATTEMPTS_MAX}")
    if not isinstance(kind.within, timedelta) or not timedelta(0) < kind.within <= WITHIN_MAX:
        raise ValueError(f"{name}: within is {kind.within!r}; it is a timedelta, up to ten years")


_MISSING = {
    "request": "write a method that returns the Request to send",
    "answered": "write a method that returns Done, Again or Never for an Answer",
    "given_up": "write a method that returns the event to publish when no answer comes in time",
}
