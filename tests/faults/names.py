"""A test's own resolver: processes that see another /etc/hosts than the rest of the machine.

Each has a mount namespace in which a file of the test lies over /etc/hosts; what the test writes into it, they resolve.
Where we are not root, a user namespace gives the right to that.
"""

import ctypes
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from shared.container import ServiceContainer
from shared.settings import Settings
from tests.faults import trail

HOSTS = Path("/etc/hosts")

# <linux/sched.h>, <sys/mount.h>
_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18


class Names:
    """Names that some processes can resolve."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self._path = path
        self._all = tuple(names)
        self._ours = HOSTS.read_text()
        self.know(*self._all)

    def know(self, *names: str) -> None:
        """Let these names lead to this machine, and all others lead nowhere."""
        self._path.write_text(self._ours + "".join(f"127.0.0.1 {name}\n" for name in names))

    def forget(self, *names: str) -> None:
        """Let these names lead nowhere, and all others to this machine."""
        self.know(*(name for name in self._all if name not in names))

    def build(self) -> "partial[ServiceContainer]":
        """Return a builder that puts a service together in a process that knows only these names."""
        return partial(build, self._path)


def build(hosts: Path, name: str, settings: Settings) -> ServiceContainer:
    """Put a service together in this process, for which `hosts` is /etc/hosts from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    _succeed(libc.unshare(_NEW_MOUNTS | (_NEW_USER if user else 0)))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _succeed(libc.mount(None, b"/", None, _RECURSIVE | _PRIVATE, None))
    _succeed(libc.mount(os.fsencode(hosts), os.fsencode(HOSTS), None, _BIND, None))
    return trail.build(name, settings)


def _succeed(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), "no namespace of our own")
