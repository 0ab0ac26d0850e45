"""A copy of this repository's tree, for tests to change and check."""

import os
import pty
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT_OUT = (".git", ".venv", ".servers", ".run", ".env", ".env.local", "__pycache__", ".pytest_cache", ".hypothesis")
SECONDS_MAX = 1_000.0


def modules(going: Iterable[Path]) -> str:
    """Return a pattern for the modules that go."""
    names = [str(place.with_suffix("")).replace("/", r"\.") for place in going if place.suffix == ".py"]
    return rf"\b({'|'.join(names)})\b"


class Tree:
    """A copy that shares the environment and the checkers' caches, which know what is unchanged."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
        (root / ".venv").symlink_to(ROOT / ".venv")
        self.git("init", "--quiet")
        (root / ".git" / "info" / "exclude").write_text("/.venv\n")  # `.gitignore` means a folder
        self.commit("everything")

    def git(self, *words: str) -> str:
        """Run git; return what it writes."""
        identity = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
        return self.run("git", *identity, *words).stdout

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def status(self) -> str:
        """Return what is not committed; empty if the tree is clean."""
        return self.git("status", "--short")

    def without_own_services(self) -> None:
        """Remove all services but the demo's: those that a team has added."""
        for path in sorted((self.root / "services").glob("*/__main__.py")):
            name = path.parent.name
            if name not in ("inventory", "order", "payment"):
                self.make("service-remove", f"NAME={name}", "FORCE=1")
        if self.status():
            self.commit("only the demo")

    def run(self, *words: str, fails: bool = False) -> "subprocess.CompletedProcess[str]":
        """Run a command at the root; it must succeed, or fail."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "PYTEST"))}
        done = subprocess.run(
            words,
            cwd=self.root,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
        assert bool(done.returncode) == fails, (
            f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
        return done

    def answer(self, answer: str, *words: str) -> str:
        """Run a command in a terminal, and type an answer; return what it writes."""
        ours, theirs = pty.openpty()
        os.write(ours, f"{answer}\n".encode())
        with os.fdopen(ours), os.fdopen(theirs) as terminal:
            done = subprocess.run(
                words, cwd=self.root, stdin=terminal, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
            )
        return done.stdout + done.stderr

    def make(self, *words: str, fails: bool = False) -> str:
        """Run make; return what it writes."""
        done = self.run("make", *words, fails=fails)
        return done.stdout + done.stderr

    def pytest(self, *words: str) -> str:
        """Run tests; return what it writes."""
        return self.run(str(ROOT / ".venv/bin/python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *words).stdout
