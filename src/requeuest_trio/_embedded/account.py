"""
Somebody to run PostgreSQL as. It refuses to run as root, and root is what a container often is.

An ordinary user runs the server under their own account, and nothing here does anything. As root the server gets the
system account `embedded_postgres` (made if it is missing), which owns its data and socket directories alone. What is
closed to it stays closed: root's data is kept in `ROOTS_PLACE` unless another place is given, and programs that are
installed below root's home are copied there.
"""

import contextlib
import fcntl
import logging
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from requeuest_trio._embedded.trust import own_directory
from requeuest_trio._model.errors import RequeuestError

ACCOUNT = "embedded_postgres"

ROOTS_PLACE = Path("/var/lib/requeuest-trio")
"""Root's home is closed to others, and stays so."""

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
        with _alone(Path("/etc")):
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
def _alone(directory: Path) -> Iterator[None]:
    """
    Let one process of this library at a time work on what is in a directory: look for the account, and make it.

    `useradd` looks for the name before it takes its own lock. Of two at once, the second would give the account that
    the first has just made another number, and whoever has seen the first number runs a server as nobody.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
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
    Let `account` reach our own directory `path`, and see that it can get there. Nothing above it is changed.

    Raises:
        RequeuestError: a directory above it is closed to the account, as root's home is.
    """
    for directory in path.parents:
        if not _may(directory, account, stat.S_IXUSR):
            raise RequeuestError(
                f"PostgreSQL refuses to run as root, and the account {account.pw_name} that it runs as cannot pass "
                f"through {directory}: choose a directory that it can reach, as 'embedded:{ROOTS_PLACE / 'postgres'}'"
            )
    if not _may(path, account, stat.S_IXUSR):
        path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IXOTH)


def let_run(account: pwd.struct_passwd, installation: Path) -> Path:
    """
    Programs that `account` can run: those of `installation`, or a copy of them if it is closed to the account.

    Returns:
        The installation to use. The copy is below `ROOTS_PLACE`, made once for each version.
    """
    if _may_run(account, installation):
        return installation
    package = installation.parent
    # Where auditwheel has put what the programs link to. They look for it from where they are.
    libraries = package.with_name(f"{package.name}.libs")
    status = (installation / "bin" / "postgres").stat()
    place = own_directory(ROOTS_PLACE / "programs", 0o755)
    copy = place / f"{package.name}-{status.st_size:x}-{status.st_mtime_ns:x}"
    with _alone(place):
        if not copy.exists():
            _logger.warning("copying PostgreSQL to %s, since the account %s cannot run it elsewhere", copy, ACCOUNT)
            new = Path(tempfile.mkdtemp(prefix="new-", dir=place))
            for directory in filter(Path.is_dir, (installation, libraries)):
                shutil.copytree(directory, new / directory.relative_to(package.parent), symlinks=True)
            for path in (new, *new.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
            new.rename(copy)
    return copy / installation.relative_to(package.parent)


def _may_run(account: pwd.struct_passwd, installation: Path) -> bool:
    postgres = installation / "bin" / "postgres"
    return _may(postgres, account, stat.S_IXUSR) and all(
        _may(directory, account, stat.S_IXUSR) for directory in postgres.resolve().parents
    )


def _may(path: Path, account: pwd.struct_passwd, right: int) -> bool:
    """Whether the permission bits of `path` give `account` this right, named by the owner's bit."""
    status = path.stat()
    if status.st_uid == account.pw_uid:
        return bool(status.st_mode & right)
    if status.st_gid == account.pw_gid:
        return bool(status.st_mode & (right >> 3))
    return bool(status.st_mode & (right >> 6))
