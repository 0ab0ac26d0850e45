"""How long a worker may take for what, and what follows for whoever watches it from outside."""

from ..settings import Settings

CYCLE, RECOVERY = 1.5, 3.0
"""In transaction timeouts; then the watchdog ends the process. A cycle has one Kafka transaction in it; a recovery asks
three systems one after the other, each with its own limit.
"""

CLIENTS_SECONDS = 20.0
"""Kafka clients that get no answer for so long are replaced: a broker's return takes less, and a client may stick to
what it once learned.
"""

CLOSE_SECONDS = 5.0
"""How long a replaced client is waited for while it closes, which takes some ms."""

START_SECONDS = 10.0
"""For a new process: some two seconds until it has a slot, on a busy machine more."""


def cycle_seconds(settings: Settings) -> float:
    """The longest that one cycle may take."""
    return CYCLE * settings.transaction_timeout_ms / 1_000


def recovery_seconds(settings: Settings) -> float:
    """The longest that one recovery may take."""
    return RECOVERY * settings.transaction_timeout_ms / 1_000


def calm_seconds(settings: Settings) -> float:
    """How long a process lives before it tries a record again at which others were killed alone: longer than a handler
    takes, so that who kills processes at any moment seldom meets the same record.
    """
    return 2 * settings.handler_seconds


def unready_seconds(settings: Settings) -> float:
    """The longest that a worker is unready that recovers within its budgets, once its servers answer: it has waited in
    vain with its old clients, replaces them, hangs in a cycle until the watchdog ends it, starts again, is taken back
    into its group, and recovers. A health check that bears less calls a sound worker ill.
    """
    return (
        CLIENTS_SECONDS
        + CLOSE_SECONDS
        + cycle_seconds(settings)
        + START_SECONDS
        + settings.session_timeout_ms / 1_000
        + recovery_seconds(settings)
    )
