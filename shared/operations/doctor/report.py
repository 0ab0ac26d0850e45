"""What was found: for people, the worst once more at the end, or as JSON for programs."""

from collections import Counter
from collections.abc import Sequence

from ..output import as_json as print_json
from ..output import echo
from .findings import WORST_FIRST, Finding

WIDTH = 21
"""Of the longest name of a check."""

SHOWN_MAX = 160
"""Characters of a finding in the summary; it is above in full."""


def show(service: str, found: Sequence[Finding], seconds: float) -> None:
    """Print a line for each finding, what mends it, and a summary with the worst first."""
    for one in found:
        echo(f"{one.verdict:<7}  {one.check:<{WIDTH}}  {one.seen}")
        if one.mend is not None:
            echo(f"{'':<{9 + WIDTH}}  -> {one.mend}{f' ({one.see})' if one.see else ''}")
    echo()
    counts = Counter(one.verdict for one in found)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in WORST_FIRST if counts[verdict])
    echo(f"{service}: {told}; in {seconds:.1f} s")
    for verdict in WORST_FIRST[:-1]:
        for one in found:
            if one.verdict == verdict:
                short = one.seen if len(one.seen) <= SHOWN_MAX else f"{one.seen[:SHOWN_MAX]}..."
                echo(f"{one.verdict:<7}  {one.check}: {short}")


def as_json(service: str, found: Sequence[Finding], seconds: float) -> None:
    """Print it for programs. Keys stay; checks may be added, and what is seen is for people."""
    counts = Counter(one.verdict for one in found)
    print_json(
        {
            "service": service,
            "healthy": not counts["fault"],
            "seconds": round(seconds, 3),
            "counts": {verdict: counts[verdict] for verdict in WORST_FIRST},
            "findings": [
                {name: getattr(one, name) for name in ("check", "verdict", "seen", "mend", "see")} for one in found
            ],
        }
    )
