"""A failure is a record's fault or the service's; many stop the worker."""

import ast
import errno
import io
import math
import pdb
import socket
import sys
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import errors
from sqlalchemy.exc import DBAPIError

from shared.errors import HandlerTooSlow, Malformed, Reject, TooManyDeadLetters
from shared.events import Envelope
from shared.postgres import blame
from shared.postgres.blame import EqualFailures
from shared.postgres.transaction import unavailable
from shared.protocol.ports import Input, NewDeadLetter, Record
from shared.settings import Settings


def quit_the_debugger(how: str) -> None:
    """Stop at a breakpoint, and leave it by a command."""
    debugger = pdb.Pdb(stdin=io.StringIO(f"{how}\n"), stdout=io.StringIO(), nosigint=True)
    debugger.use_rawinput = False
    debugger.set_trace()
    raise KeyError("the line after it")  # a newer debugger stops in the line of `set_trace`, an older one here


def caught(call: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as found:  # noqa: PT011
        call()
    return found.value


@pytest.mark.parametrize(("how", "left"), [("quit", True), ("", True), ("continue", False)])
def test_who_quits_the_debugger_blames_no_record(how: str, left: bool) -> None:
    def wraps_it() -> None:
        try:
            quit_the_debugger(how)
        except Exception as error:
            raise Reject("the handler catches everything") from error

    traced = sys.gettrace()  # of a measurement of coverage
    try:
        assert blame.is_debuggers(caught(lambda: quit_the_debugger(how))) is left
        assert blame.is_debuggers(caught(wraps_it)) is left
    finally:
        sys.settrace(traced)


def refused(kind: type[psycopg.Error]) -> DBAPIError:
    return DBAPIError("a statement", None, kind())


OF_THE_SERVICE = (
    *(errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction, errors.InsufficientPrivilege),
    *(errors.InvalidCatalogName, errors.InvalidSchemaName, errors.InvalidAuthorizationSpecification),
    *(errors.ConfigFileError, errors.InternalError_, errors.FeatureNotSupported, errors.SyntaxError),
    *(errors.InvalidSqlStatementName, errors.SnapshotTooOld, errors.FdwError),
)


@pytest.mark.parametrize("kind", OF_THE_SERVICE)
def test_what_the_schema_lacks_is_no_fault_of_a_record(kind: type[psycopg.Error]) -> None:
    assert blame.is_service(refused(kind))


def test_each_class_was_tried() -> None:
    assert {(kind.sqlstate or "")[:2] for kind in OF_THE_SERVICE} == blame.SERVICE


@pytest.mark.parametrize(
    "kind",
    [
        *(errors.NumericValueOutOfRange, errors.UntranslatableCharacter, errors.UniqueViolation, errors.CheckViolation),
        *(errors.ProgramLimitExceeded, errors.RaiseException, errors.IndeterminateDatatype, errors.DatatypeMismatch),
    ],
)
def test_what_a_value_can_bring_about_may_be_its_fault(kind: type[psycopg.Error]) -> None:
    assert not blame.is_service(refused(kind))


WAITS, EITHER, SERVICE, RECORD = "the worker waits", "tried alone", "its input waits", "the record's"

VERDICTS = {
    **dict.fromkeys(["08", "25006", "25P03", "25P04", "40", "53100", "53300", "55P03", "57"], WAITS),
    **dict.fromkeys(["25", "53", "55", "57014", "58"], EITHER),
    **dict.fromkeys(["0A", "26", "28", "3D", "3F", "42", "72", "F0", "HV", "XX"], SERVICE),
    # The first line: values. The second: what a function of one's own says, or a trigger. The others: what only a
    # handler's own SQL can bring about, on its way with this record.
    **dict.fromkeys(["21", "22", "23", "44", "54", "42804", "42846", "42725", "42P08", "42P18"], RECORD),
    **dict.fromkeys(["P0", "02", "20", "09", "27", "38", "39"], RECORD),
    **dict.fromkeys(["25P02", "03", "0B", "0F", "0L", "0P", "0Z", "10", "24", "2B", "2D", "2F", "34", "3B"], RECORD),
}
"""The verdict of each SQLSTATE class, and of codes that differ from their class."""

CODES = {
    kind.sqlstate: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, psycopg.Error)
}


def result(error: DBAPIError) -> str:
    if blame.may_be_either(error):
        return EITHER
    if unavailable(error) is not None:
        return WAITS
    return SERVICE if blame.is_service(error) else RECORD


@pytest.mark.parametrize("code", sorted(code for code in CODES if code))
def test_every_sqlstate_is_somebodys(code: str) -> None:
    assert result(refused(CODES[code])) == VERDICTS.get(code, VERDICTS.get(code[:2]))


def raised(act: Callable[[], Any]) -> Exception:
    try:
        act()
    except Exception as error:  # noqa: BLE001 - any
        return error
    raise AssertionError


def _unbound() -> None:
    exec("def f():\n    if 0:\n        found = 1\n    return found\nf()")


@pytest.mark.parametrize(
    ("act", "service"),
    [
        (lambda: __import__("no_such_module_of_ours"), True),
        (lambda: eval("no_such_name"), True),
        (lambda: math.no_such_function, True),  # type: ignore[attr-defined]
        (lambda: "text".no_such_method, False),  # type: ignore[attr-defined]
        (_unbound, False),
        (lambda: ast.literal_eval("{"), False),
        (lambda: dict[str, int]()["key"], False),
    ],
    ids=["import", "name", "attribute of a module", "attribute of a value", "unbound", "text of a record", "key"],
)
def test_of_python_errors(act: Callable[[], Any], service: bool) -> None:
    assert blame.is_service(raised(act)) is service


def test_of_a_module_that_cannot_be_read() -> None:
    assert blame.is_service(raised(lambda: compile("def", "services/new/module.py", "exec")))
    assert not blame.is_service(raised(lambda: compile("def", "<string>", "exec")))


def test_of_the_surroundings() -> None:
    assert blame.is_service(OSError(errno.ENOSPC, "no space"))
    assert blame.is_service(socket.gaierror(socket.EAI_NONAME, "no such name"))
    assert blame.is_service(ConnectionRefusedError())
    assert not blame.is_service(FileNotFoundError())


def dead_letter(key: str, error: Exception, kind: str = "Asked") -> NewDeadLetter:
    record = Record(Input("asked", 0), 0, key.encode(), b"", ())
    return NewDeadLetter(record, 0, Envelope("id", "test", kind, 1, "", key, b""), error)


def defect() -> Exception:
    return raised(lambda: dict[str, int]()["key"])


def test_equal_failures_of_different_keys_stop_the_worker() -> None:
    equal = EqualFailures(3, "python -m services.x")
    equal.note((), [dead_letter("a", defect()), dead_letter("a", defect()), dead_letter("b", defect())])
    with pytest.raises(
        TooManyDeadLetters, match=r"EQUAL_FAILURES_MAX = 3: KeyError: 'key', at tests/unit/postgres/test_blame.py"
    ):
        equal.note((), [dead_letter("c", defect())])


@pytest.mark.parametrize("error", [HandlerTooSlow(), refused(errors.NotNullViolation)])
def test_slow_ones_too_and_what_a_new_column_does_to_old_code(error: Exception) -> None:
    equal = EqualFailures(2, "")
    with pytest.raises(TooManyDeadLetters):
        equal.note((), [dead_letter("a", error), dead_letter("b", error)])


def test_ten_are_enough() -> None:
    assert Settings.model_fields["equal_failures_max"].default == 10


@pytest.mark.parametrize(
    "error", [Reject("no"), Malformed("no"), refused(errors.NumericValueOutOfRange), refused(errors.CheckViolation)]
)
def test_what_is_decided_for_a_record_stops_no_worker(error: Exception) -> None:
    """Otherwise any producer on a topic could stop a service with ten records."""
    EqualFailures(2, "").note((), [dead_letter(str(n), error) for n in range(100)])


def test_one_that_is_handled_between_begins_anew() -> None:
    equal = EqualFailures(2, "")
    for n in range(10):
        equal.note(("Asked",), [dead_letter(str(n), defect())])


def test_another_failure_or_another_type_begins_anew() -> None:
    equal = EqualFailures(2, "")
    for n in range(10):
        equal.note((), [dead_letter(str(n), defect())])
        equal.note((), [dead_letter(str(n), raised(lambda: 1 / 0))])
    equal.note((), [dead_letter("1", defect(), "Other")])


def test_it_can_be_turned_off() -> None:
    EqualFailures(0, "").note((), [dead_letter(str(n), defect()) for n in range(100)])
