"""The time budgets of a worker, and what they mean for a health check."""

from ..settings import Settings

CYCLE, RECOVERY = 1.5, 3.0
"""In transaction timeouts; then the watchdog ends the process. A cycle contains one Kafka transaction; a recovery asks
three systems in turn, each with its own limit.
"""

CLIENTS_SECONDS = 20.0
"""Kafka clients that get no answer for this long are replaced: a broker returns sooner, and a client may be stuck with
outdated metadata.
"""

CLOSE_SECONDS = 5.0
"""How long to wait for a replaced client to close, which takes a few ms."""

START_SECONDS = 10.0
"""For a new process to get a slot: about two seconds, more on a busy machine."""


def cycle_seconds(settings: Settings) -> float:
    """Return the longest that one cycle may take."""
    return CYCLE * settings.transaction_timeout_ms / 1_000


def recovery_seconds(settings: Settings) -> float:
    """Return the longest that one recovery may take."""
    return RECOVERY * settings.transaction_timeout_ms / 1_000


def calm_seconds(settings: Settings) -> float:
    """Return how long a process lives before it retries a record at which others were killed alone. It is longer than a
    handler takes, so that kills at random moments seldom hit the same record.
    """
    return 2 * settings.handler_seconds


def unready_seconds(settings: Settings) -> float:
    """Return the longest that a worker within its budgets is unready, once its servers answer: it has waited in vain
    with its old clients, replaces them, hangs in a cycle until the watchdog ends it, restarts, rejoins its group, and
    recovers. A health check with less patience fails a sound worker.
    """
    return (
        CLIENTS_SECONDS
        + CLOSE_SECONDS
        + cycle_seconds(settings)
        + START_SECONDS
        + settings.session_timeout_ms / 1_000
        + recovery_seconds(settings)
    )
