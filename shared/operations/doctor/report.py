"""What was found: for people, the worst once more at the end, or as JSON for programs."""

from collections import Counter
from collections.abc import Sequence

from ..output import as_json as print_json
from ..output import echo
from .findings import WORST_FIRST, Finding

WIDTH = 21
"""Of the longest name of a check."""

SHOWN_MAX = 160
"""Characters of a finding in the summary that is no fault; it is above in full."""

PLURAL = {"fault": "faults", "warning": "warnings"}


def show(service: str, found: Sequence[Finding], seconds: float) -> None:
    """Print a line for each finding, what mends it, and a summary with the worst first."""
    lines = _folded(found)
    for one in lines:
        echo(f"{one.verdict:<7}  {one.check:<{WIDTH}}  {one.seen}")
        if one.mend is not None:
            echo(f"{'':<{9 + WIDTH}}  {_mend(one)}")
    echo()
    counts = Counter(one.verdict for one in found)
    told = [
        f"{counts[verdict]} {PLURAL.get(verdict, verdict) if counts[verdict] > 1 else verdict}"
        for verdict in WORST_FIRST
        if counts[verdict]
    ]
    echo(f"{service}: {', '.join(told)}; in {seconds:.1f} s")
    for verdict in WORST_FIRST[:-1]:
        for one in lines:
            if one.verdict == verdict == "fault":
                echo(f"{one.verdict:<7}  {one.check}: {one.seen}")
                echo(f"{'':<7}  {_mend(one)}")
            elif one.verdict == verdict:
                short = one.seen if len(one.seen) <= SHOWN_MAX else f"{one.seen[:SHOWN_MAX]}..."
                echo(f"{one.verdict:<7}  {one.check}: {short}")


def _mend(one: Finding) -> str:
    return f"-> {one.mend}{f' ({one.see})' if one.see else ''}"


def as_json(service: str, found: Sequence[Finding], seconds: float) -> None:
    """Print it for programs. The keys stay; checks may be added, and the words are for people."""
    counts = Counter(one.verdict for one in found)
    keys = ("check", "verdict", "seen", "mend", "see", "behind")
    print_json(
        {
            "service": service,
            "healthy": not counts["fault"],
            "seconds": round(seconds, 3),
            "counts": {verdict: counts[verdict] for verdict in WORST_FIRST},
            "findings": [{key: getattr(one, key) for key in keys} for one in found],
        }
    )


def _folded(found: Sequence[Finding]) -> list[Finding]:
    """Return the findings with one line for all that wait for the same check."""
    lines: list[Finding] = []
    told = set()
    for one in found:
        if one.behind is None:
            lines.append(one)
        elif one.behind not in told:
            told.add(one.behind)
            names = ", ".join(other.check for other in found if other.behind == one.behind)
            lines.append(one._replace(check="not looked at", seen=f"for what `{one.behind}` found: {names}"))
    return lines
