"""What `breakpoint()` calls in the foreground (PYTHONBREAKPOINT)."""

import pdb
import sys


def stop() -> None:
    """Stop in the caller. Unlike pdb's own, it leaves Ctrl+C to the worker: pdb would take it, once it has run, to stop
    again wherever the worker is.
    """
    pdb.Pdb(nosigint=True).set_trace(sys._getframe(1))
