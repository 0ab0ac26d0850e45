"""The log fields written when the watchdog ends a process."""

import sys
import threading
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from ..postgres.deadline import in_database
from ..postgres.transaction import WorkerDatabase
from ..telemetry import failures


def last_words(database: WorkerDatabase, budget: float, what: str) -> dict[str, object]:
    """Describe where the main thread is stuck and with which record; if in a handler, note that for the next process.
    `what` is the work that the watchdog watches, and `budget` the seconds of a cycle.
    """
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    where = failures.stack(frame) if frame is not None else ""
    if database.at is None:
        return {"traceback": where}
    records, handler = database.at
    if len(records) > 1:  # nobody knows at which; the next processes note all, and try them alone
        return {"handler": handler, "records": len(records), "traceback": where}
    (record,) = records
    if what == "cycle" and frame is not None and not in_database(frame):
        with suppress(SQLAlchemyError):
            database.note_stuck(record, f"{handler} did not come back within {budget:g} s", where)
    return {"handler": handler, **failures.facts(record), "traceback": where}
