"""The silence of a topic after a process was struck."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

# A silence belongs to a blow if it begins within this time after it: the victim may have had a batch on its way.
REACTION_SECONDS = 1.0


def silence(arrivals: Mapping[tuple[str, int], Sequence[float]], topic: str, at: float) -> float | None:
    """Return the longest silence of any partition of `topic` that a blow at `at` can have caused, by `arrivals`: when
    records of each topic and partition could be read.

    A silence counts if it begins at the blow or within `REACTION_SECONDS` after it, however long it lasts. None if some
    partition stayed silent, because no more orders came.
    """
    longest = 0.0
    for partition, times in arrivals.items():
        if partition[0] != topic:
            continue
        index = bisect_left(times, at)
        since = at
        while since <= at + REACTION_SECONDS:
            if index == len(times):
                return None
            longest = max(longest, times[index] - since)
            since = times[index]
            index += 1
    return longest


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of all values do not exceed; 0 if there are none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0
