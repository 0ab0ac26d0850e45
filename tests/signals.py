"""Children that are started as a terminal starts them, however the tests were started: `nohup`, and a shell that has
them run in the background, leave signals ignored, and whoever is started by them inherits that.
"""

import signal

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def not_ignored() -> None:
    """Let a child ignore none of the signals that end it: a `preexec_fn`, called between fork and exec."""
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
