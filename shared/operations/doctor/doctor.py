"""`doctor`: asks everything that a service needs, and tells what is wrong and how to mend it. It changes nothing."""

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import groupby
from typing import Any

from confluent_kafka import KafkaException
from sqlalchemy.exc import DBAPIError

from ...errors import ExactlyOnceError, Misconfigured
from ...kafka import open_transactions
from ...telemetry import logs
from . import report
from .aside import begin
from .case import Case
from .checks import CHECKS, Check
from .findings import Finding, fault, unknown

SECONDS_MAX = 28.0
"""For all checks. What has no answer by then is unknown."""

HAND_OVER_SECONDS = 1.0
"""After that, for a check that was cut short to tell what it has seen."""

NO_TIME = unknown("not looked at: other checks took all the time", "mend what they found, and run this again")


def doctor(container: Any, *, json: bool) -> bool:
    """Look at everything, and print it; return whether there is no fault."""
    logs.silence()
    case = Case(container)
    began = time.monotonic()
    open_transactions.load()  # half a second, and many under load: no answer of a broker is late for it
    found = examine(case, CHECKS, SECONDS_MAX - (time.monotonic() - began))
    show = report.as_json if json else report.show
    show(case.service.name, found, time.monotonic() - began)
    return all(one.verdict != "fault" for one in found)


def examine(case: Case, checks: Sequence[Check], seconds: float) -> list[Finding]:
    """Return the findings of all checks, in their order. Takes `seconds` at most, whatever a check does."""
    deadline = time.monotonic() + seconds
    outcomes: dict[str, Future[list[Finding]]] = {check.name: Future() for check in checks}
    for _, of_place in groupby(checks, lambda check: check.name.split()[0]):
        begin(partial(_in_turn, case, list(of_place), outcomes, deadline))
    found = []
    for check in checks:
        try:
            answer = outcomes[check.name].result(max(0.0, deadline + HAND_OVER_SECONDS - time.monotonic()))
        except TimeoutError:
            answer = [NO_TIME]
        found += [one._replace(check=check.name) for one in answer]
    return found


def _in_turn(
    case: Case, checks: Iterable[Check], outcomes: Mapping[str, Future[list[Finding]]], deadline: float
) -> None:
    for check in checks:
        outcomes[check.name].set_result(_hindered(check, outcomes, deadline) or _asked(case, check, deadline))


def _hindered(check: Check, outcomes: Mapping[str, Future[list[Finding]]], deadline: float) -> list[Finding]:
    """Return why a check makes no sense, or nothing."""
    for need in check.needs:
        try:
            before = outcomes[need].result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            return [unknown(f"not looked at: `{need}` took too long", f"mend `{need}` first")]
        if wrong := [one for one in before if one.verdict in ("fault", "unknown")]:
            root = wrong[0].behind or need
            return [unknown(f"not looked at, for what `{root}` found", f"mend `{root}` first")._replace(behind=root)]
    return []


def _asked(case: Case, check: Check, deadline: float) -> list[Finding]:
    """Ask; return what was found, and how it ended if it did not end well."""
    found: list[Finding] = []
    seconds = min(check.seconds, deadline - time.monotonic())
    if seconds <= 0:
        return [NO_TIME]
    try:
        begin(lambda: found.extend(check.ask(case))).result(seconds)
    except Exception as error:  # noqa: BLE001 - a check that fails must not hide what the others find
        late = unknown(f"no answer within {seconds:.0f} s", "is that server up, or overloaded? Run this again")
        told = late._replace(verdict=check.late) if isinstance(error, TimeoutError) else failed(error)
        return [*found, told]
    return list(found) or [unknown("there was nothing to look at", "mend what the lines before say")]


def failed(error: Exception) -> Finding:
    """Tell why a check did not come to its end."""
    if isinstance(error, Misconfigured):
        return fault(str(error), "do what it says")
    if isinstance(error, DBAPIError):
        return unknown(f"PostgreSQL: {error.orig}", "mend what the other lines say of PostgreSQL, and run this again")
    if isinstance(error, KafkaException):
        return unknown(f"Kafka: {error.args[0].name()}: {error.args[0].str()}", "run this again")
    if isinstance(error, ExactlyOnceError):
        return unknown(str(error), "run this again")
    return unknown(f"the check failed with {type(error).__name__}: {error}", "report it: this is a defect of `doctor`")
