"""Waiting for a condition, with a bound, as `shared.testing` has it for the tests of services."""

from shared.testing.waiting import POLL_SECONDS, SECONDS_MAX, until

__all__ = ["POLL_SECONDS", "SECONDS_MAX", "until"]
