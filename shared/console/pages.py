"""Templates, and the files that a browser loads with them.

Everything that a template shows is escaped twice: as HTML, and what is not printable as a Python escape. Files have
their digest in their address, so a browser may keep them for ever.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from ..operations.output import printable
from . import flow

_PLACE = files(__package__ or "")
MEDIA_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
NAME_MAX = 22
"""Characters of a name that fit into the picture."""
FOR_EVER = "public, max-age=31536000, immutable"

Fragments = dict[str, tuple[str, str | None]]
"""By the id of an element: what it contains, and its state."""


class Live:
    """Elements of a page that change while somebody looks. A template writes each by one of these, so the page and what
    is sent later are of one piece.
    """

    def __init__(self) -> None:
        self.fragments: Fragments = {}

    def element(self, tag: str, name: str, content: object, state: str | None = None, **attributes: object) -> Markup:
        """Write an element that changes, called `name`."""
        inside = content if isinstance(content, Markup) else escape(printable(str(content)))
        self.fragments[name] = (str(inside), state)
        given = {"id": name, "data-state": state, **attributes}
        spelled = Markup("").join(
            Markup(' {}="{}"').format(attribute.strip("_").replace("_", "-"), value)
            for attribute, value in given.items()
            if value is not None
        )
        return Markup("<{0}{1}>{2}</{0}>").format(tag, spelled, inside)

    def block(self, tag: str, name: str, caller: Any, **attributes: object) -> Markup:
        """Write an element whose whole inside changes; a template calls it by `call`."""
        return self.element(tag, name, Markup(caller()), None, **attributes)  # noqa: S704 - a template's own output


def _template(name: str) -> str | None:
    found = _PLACE / "templates" / name
    return found.read_text(encoding="utf-8") if found.is_file() else None


def _finalize(value: object) -> object:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _when(moment: datetime | str | None) -> str:
    """Show a moment to the second, in UTC."""
    if moment is None:
        return "never"
    given = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{given.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _clock(moment: datetime) -> str:
    """Show the time of day, in UTC."""
    return f"{moment.astimezone(UTC):%H:%M:%S}"


def _moment(moment: datetime) -> str:
    """Show a moment to the millisecond, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]


def _short(text: str, most: int = NAME_MAX) -> str:
    """Cut text that is longer than a cell."""
    spelled = printable(text[: most + 1])
    return spelled if len(spelled) <= most else f"{spelled[: most - 1]}…"


def _waited(seconds: float | None) -> str:
    """Show how long the oldest has waited."""
    return "none" if seconds == 0 else flow.span(seconds)


def _verbatim(text: str) -> Markup:
    """Keep the lines of text whose other characters are printable already (`reading.lines`)."""
    return escape(text)


ENVIRONMENT = Environment(
    loader=FunctionLoader(_template),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_finalize,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {
    "number": flow.number,
    "rate": flow.rate,
    "span": flow.span,
    "waited": _waited,
    "when": _when,
    "clock": _clock,
    "moment": _moment,
    "short": _short,
    "verbatim": _verbatim,
}


class Assets:
    """The files beside the templates, read once."""

    def __init__(self) -> None:
        self._content = {found.name: found.read_bytes() for found in (_PLACE / "static").iterdir() if "." in found.name}
        self._digests = {name: sha256(content).hexdigest()[:16] for name, content in self._content.items()}

    def address(self, name: str) -> str:
        """Return where a file is."""
        return f"/static/{self._digests[name]}/{name}"

    def find(self, digest: str, name: str) -> tuple[bytes, str] | None:
        """Return a file and its media type; None if it is not there, or another version."""
        if self._digests.get(name) != digest:
            return None
        return self._content[name], MEDIA_TYPES[name.rpartition(".")[2]]


ASSETS = Assets()
ENVIRONMENT.globals["asset"] = ASSETS.address


def render(template: str, facts: Mapping[str, object]) -> str:
    """Fill in a template."""
    return ENVIRONMENT.get_template(template).render(facts)
