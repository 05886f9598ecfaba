"""
Somebody to run PostgreSQL as. It refuses to run as root, and root is what a container often is.

An ordinary user runs the server under their own account, and nothing here does anything. As root the server gets the
system account `embedded_postgres` (made if it is missing), owns its data and socket directories alone, and may pass
through the directories above them.
"""

import contextlib
import fcntl
import logging
import os
import pwd
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from requeuest_trio._model.errors import RequeuestError

ACCOUNT = "embedded_postgres"

_logger = logging.getLogger("requeuest_trio.embedded")


def server_account() -> pwd.struct_passwd | None:
    """
    The account for the server: None for our own, which is right unless we are root.

    Raises:
        RequeuestError: we are root and the account can neither be found nor made.
    """
    if os.geteuid() != 0:
        return None
    problem: object = None
    for _ in range(20):
        with _alone():
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(ACCOUNT)
            try:
                _make_account()
                continue
            except (OSError, subprocess.CalledProcessError) as error:
                # Also if somebody makes another account at this moment: `useradd` finds the file locked and gives up.
                problem = getattr(error, "stderr", None) or error
        time.sleep(0.1)
    raise RequeuestError(
        f"PostgreSQL refuses to run as root, and the account {ACCOUNT!r} could not be made: {problem}. "
        f"Run `useradd --system {ACCOUNT}`, or do not run as root"
    )


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """
    Let one process of this library at a time look for the account and make it.

    `useradd` looks for the name before it takes its own lock. Of two at once, the second would give the account that
    the first has just made another number, and whoever has seen the first number runs a server as nobody.
    """
    descriptor = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_account() -> None:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", ACCOUNT]
    subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603


def let_in(account: pwd.struct_passwd, path: Path) -> None:
    """
    Let `account` reach the directory `path`: each directory above it may be passed through, though not be listed.

    Without this, root's own home directory and pytest's temporary ones would be out of reach.
    """
    for directory in (path, *path.parents):
        mode = directory.stat().st_mode
        if not _may(mode, directory, account, stat.S_IXUSR):
            _logger.warning("letting the account %s pass through %s", account.pw_name, directory)
            directory.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def let_run(account: pwd.struct_passwd, installation: Path) -> None:
    """Let `account` read and run what is installed below `installation`, also if it was installed for root alone."""
    let_in(account, installation)
    if _may(
        (installation / "bin" / "postgres").stat().st_mode, installation / "bin" / "postgres", account, stat.S_IXUSR
    ):
        return
    for path in (installation, *installation.rglob("*")):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | (0o555 if mode & stat.S_IXUSR else 0o444))


def _may(mode: int, path: Path, account: pwd.struct_passwd, right: int) -> bool:
    """Whether the permission bits of `path` give `account` this right, named by the owner's bit."""
    status = path.stat()
    if status.st_uid == account.pw_uid:
        return bool(mode & right)
    if status.st_gid == account.pw_gid:
        return bool(mode & (right >> 3))
    return bool(mode & (right >> 6))
