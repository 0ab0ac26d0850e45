"""What a check has seen, and its verdict."""

from typing import Literal, NamedTuple

Verdict = Literal["fault", "warning", "unknown", "ok"]

WORST_FIRST: tuple[Verdict, ...] = ("fault", "warning", "unknown", "ok")

CHARACTERS_MAX = 1_500
"""Of a sentence: parts of it come from servers, and a service may have hundreds of topics."""


class Finding(NamedTuple):
    """One line of the report."""

    verdict: Verdict
    seen: str
    mend: str | None = None
    """What to do; None only if it is ok."""
    see: str | None = None
    """The section that says more."""
    check: str = ""
    """The name of the check; the run fills it in."""
    behind: str | None = None
    """The check for whose findings this one was not asked."""


def ok(seen: str) -> Finding:
    """All is well."""
    return Finding("ok", _cut(seen))


def warning(seen: str, mend: str, see: str | None = None) -> Finding:
    """The service works; something is unsafe, or will be in its way."""
    return Finding("warning", _cut(seen), _cut(mend), see)


def fault(seen: str, mend: str, see: str | None = None) -> Finding:
    """The service, or a part of it, does not work for this reason."""
    return Finding("fault", _cut(seen), _cut(mend), see)


def unknown(seen: str, mend: str, see: str | None = None) -> Finding:
    """It could not be seen; `seen` says why."""
    return Finding("unknown", _cut(seen), _cut(mend), see)


def _cut(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= CHARACTERS_MAX else f"{words[:CHARACTERS_MAX]}..."
