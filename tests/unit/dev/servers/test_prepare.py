"""A command that prepares a service has a limit, and says so."""

import subprocess
from typing import Any

import pytest

from dev.servers import ServerError
from dev.servers.prepare import run_command


def test_a_command_that_takes_too_long_is_named_with_what_may_be_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(words: list[str], timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(words, timeout)

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(
        ServerError, match=r"`python -m services\.pear migrate` did not end within \d+ s.* lock a table"
    ):
        run_command("pear", "migrate", {})
