"""Names of earlier versions, each with its current one. An old name is refused at the start, with the new one in the
message: a setting that is silently ignored would have its default.
"""

from collections.abc import Container, Iterable

SETTINGS = {
    "AUDIT_KEEP_HOURS": "AUDIT_RETENTION_HOURS",
    "DEAD_LETTER_KEEP_HOURS": "DEAD_LETTER_RETENTION_HOURS",
    "GRACE_SECONDS": "SHUTDOWN_GRACE_SECONDS",
    "HTTP_REQUESTS_PER_SECOND": "HTTP_REQUESTS_PER_SECOND_MAX",
    "LEAVE_ON_STOP": "LEAVE_GROUP_ON_SHUTDOWN",
    "PREFETCH_MESSAGES": "PREFETCH_RECORDS",
    "SET_ASIDE_PER_MINUTE_MAX": "DEAD_LETTERS_PER_MINUTE_MAX",
}
OPTIONS = {
    "--heard": "--consumed",
    "--hears": "--consumes",
    "--source": "--target",
}


def refusal(words: Iterable[str], known: Container[str] = frozenset(OPTIONS.values())) -> str | None:
    """Return why a command line is refused, if one of its options has another name now, among those that are `known` to
    the command.
    """
    for word in words:
        option = word.partition("=")[0]
        if option in OPTIONS and OPTIONS[option] in known:
            return f"{option} is now called {OPTIONS[option]}"
    return None
