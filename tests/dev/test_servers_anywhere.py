"""The embedded servers start wherever a developer works: odd paths, a strict umask, variables of libpq, no home."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from dev.servers import Postgres, ServerError, unprivileged
from dev.servers.places import cache
from dev.servers.unprivileged import Account

pytestmark = pytest.mark.proof

ROOT = Path(__file__).parents[2]
START_SECONDS_MAX = 110.0
STARTED = "from dev.servers import running\nwith running() as servers: print(servers.kafka.bootstrap)"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that `nobody` can reach; pytest's own is closed."""
    made = Path(tempfile.mkdtemp(dir="/var/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


def run(*words: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Run Python with more variables, or fewer."""
    env = {name: value for name, value in {**os.environ, **variables}.items() if value is not None}
    return subprocess.run(
        (sys.executable, *words),
        cwd=ROOT,
        env=env,
        umask=0o077,
        capture_output=True,
        text=True,
        timeout=START_SECONDS_MAX,
        check=False,
    )


def test_both_start_with_odd_paths_a_strict_umask_and_variables_of_libpq(place: Path) -> None:
    """They leave nothing behind in any folder."""
    temporary, home = place / "ü tmp, x\\y", place / "jürgen a,b"
    temporary.mkdir()
    temporary.chmod(0o711)
    home.mkdir()
    (home / "exactly-once").symlink_to(cache())
    variables = {
        "PGSSLMODE": "require",
        "PGOPTIONS": "-c nothing=1",
        "PGSERVICE": "nowhere",
        "HTTP_PROXY": "http://[::",
    }

    done = run("-c", STARTED, TMPDIR=str(temporary), XDG_CACHE_HOME=str(home), LC_ALL="C", **variables)

    assert done.returncode == 0, done.stderr
    assert sorted(place.rglob("*")) == sorted([temporary, home, home / "exactly-once"])


def test_programs_are_copied_so_that_everybody_may_run_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unprivileged, "open_to_all", lambda _: False)
    before = os.umask(0o077)
    try:
        found = unprivileged.programs(Account(65_534, 65_534), place)
    finally:
        os.umask(before)
    monkeypatch.undo()

    assert found.is_relative_to(place)
    assert unprivileged.open_to_all(found.parent)
    (found / "initdb").chmod(0o700)
    assert not unprivileged.open_to_all(found.parent)


def test_a_server_that_does_not_let_us_in_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise psycopg.OperationalError("server does not support SSL, but SSL was required")

    with Postgres(report=lambda _: None) as postgres:
        monkeypatch.setattr(psycopg, "connect", refuse)
        with pytest.raises(ServerError, match="is up, and does not let us in: server does not support SSL"):
            postgres.restart()
        monkeypatch.undo()


@pytest.mark.parametrize("port", ["70000", "0", "-1", "x", "9" * 10_000])
def test_what_is_no_port_is_refused_in_a_sentence(port: str) -> None:
    done = run("-m", "dev.servers", "up", "--kafka-port", port)

    assert done.returncode == 2
    assert "is not a port, a number from 1 to 65535" in done.stderr or "expected one argument" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_home_that_is_none_is_told_in_a_sentence(place: Path) -> None:
    (place / "file").touch()
    for home in (str(place / "file"), str(place / "a:b")):
        done = run("-m", "dev.servers", "fetch", XDG_CACHE_HOME=home)

        assert done.returncode == 1
        assert "set XDG_CACHE_HOME to a folder" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_user_that_is_in_no_list_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:  # what pathlib does for a uid without HOME and without an entry in /etc/passwd
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)

    with pytest.raises(ServerError, match="there is no home for what is downloaded; set XDG_CACHE_HOME"):
        cache()
