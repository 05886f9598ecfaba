"""
What lies in the home directory of an embedded server, and who may hold which lock.

::

    HOME/
      data/           PostgreSQL's data directory; appears complete, by one rename
      data.new-*/     a data directory being made; worth nothing once its maker is gone
      socket/         the directory of the unix socket, or a link to one with a shorter name
      server.log      what PostgreSQL and the keeper have to say
      users.lock      shared: held by every open scope; exclusive: by the keeper while it stops the server
      keeper.lock     exclusive: held by the keeper as long as it lives

The locks are `flock` locks. The kernel drops them when their holder dies, whatever it died of, so nothing here has to
be healed. The files stay: a lock on a file that somebody removes and makes anew would be two locks.

Only the standard library is used, because the keeper runs without anything else.
"""

import contextlib
import fcntl
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

SHARED = fcntl.LOCK_SH
EXCLUSIVE = fcntl.LOCK_EX
LARGEST_LOCK_FILE = 10_000
"""Bytes. PostgreSQL's have eight short lines."""


@dataclass(frozen=True, slots=True)
class Home:
    """The home directory of one embedded server; `path` is absolute and free of symbolic links."""

    path: Path

    @property
    def data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.path / "data"

    @property
    def socket(self) -> Path:
        """The directory of the unix socket, or a link to it."""
        return self.path / "socket"

    @property
    def log(self) -> Path:
        """Where PostgreSQL and the keeper write."""
        return self.path / "server.log"

    @property
    def users_lock(self) -> Path:
        """Shared by all scopes."""
        return self.path / "users.lock"

    @property
    def keeper_lock(self) -> Path:
        """Held by the one keeper."""
        return self.path / "keeper.lock"


def try_lock(path: Path, how: int) -> int | None:
    """
    Lock `path` without waiting.

    Args:
        path: the lock file; it is made if it is missing.
        how: `SHARED` or `EXCLUSIVE`.

    Returns:
        The descriptor that holds the lock, not inherited by programs, or None if somebody else's lock is in the way.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unlock(descriptor: int) -> None:
    """Give up a lock, also for the copies of the descriptor in forked children, and close it."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def is_locked(path: Path, how: int) -> bool:
    """Whether a lock of this kind could not be had right now."""
    descriptor = try_lock(path, how)
    if descriptor is None:
        return True
    unlock(descriptor)
    return False


def read_plain(path: Path) -> str:
    """The beginning of a small file that another account may have written. No link is followed, no pipe waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.read(descriptor, LARGEST_LOCK_FILE).decode(errors="replace")
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What `postmaster.pid` says about the server's main process."""

    pid: int
    ready: bool
    """It takes connections; otherwise it is starting, recovering or stopping."""


def running_postmaster(home: Home) -> Postmaster | None:
    """
    The server's main process, if it is alive.

    The file alone proves nothing. It survives a kill and a power cut, and its number may be another program's by now.
    """
    postmaster = recorded_postmaster(home.data / "postmaster.pid")
    return postmaster if postmaster is not None and is_postmaster(postmaster.pid, home) else None


def recorded_postmaster(lock_file: Path) -> Postmaster | None:
    """What one of PostgreSQL's lock files claims; None if there is no such file or it is still being written."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = read_plain(lock_file).splitlines()
        return Postmaster(int(lines[0]), ready=len(lines) >= 8 and lines[7].strip() == "ready")
    return None


def is_postmaster(pid: int, home: Home) -> bool:
    """Whether process `pid` is a PostgreSQL server that was started on this data directory."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        if Path("/proc/self/cmdline").exists():
            return False
        # No /proc, as on macOS. `ps` separates the arguments by blanks only, so look for the path anywhere in it.
        listed = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, check=False)  # noqa: S603, S607
        line = os.fsdecode(listed.stdout)
        return "postgres" in line and str(home.data) in line
    return Path(command[0]).name == "postgres" and str(home.data) in command
