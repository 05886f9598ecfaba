"""
PostgreSQL itself: making its data directory, starting it, stopping it.

Only the keeper calls this, and holds `keeper.lock` meanwhile, so nobody else does the same at the same time. What may
be met is what an earlier keeper left when it was killed: a half-made data directory, a running server, one that is just
starting.
"""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from requeuest_trio._embedded.files import (
    Home,
    Postmaster,
    is_postmaster,
    read_plain,
    recorded_postmaster,
    running_postmaster,
)

POLL = 0.01
"""Seconds between two looks at a server that is starting or stopping."""

RESTART_PATIENCE = 10.0
"""Seconds for which a start is tried again after a kill: the children of the killed server need a moment to go."""

STOP_PATIENCE = 60.0
"""Seconds for an orderly stop. Then PostgreSQL is told to drop everything, which its log repairs at the next start."""

PORT = 5432
"""Only part of the socket's name. It has to be said, because a client reads `PGPORT` otherwise."""

LONGEST_SOCKET_DIRECTORY = 80
"""Bytes. A socket's address has room for 104 on macOS and 108 on Linux, and the name of the socket takes 14."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the keeper has to know. It travels as JSON on its command line."""

    home: str
    binaries: str
    """The directory with `initdb` and `postgres`."""
    user: int | None
    group: int | None
    """The ids to run PostgreSQL as; None for our own."""
    initdb: Sequence[str]
    """Further options of `initdb`."""
    settings: dict[str, str]
    """Settings that hold whatever `postgresql.conf` says."""


class CannotKeepError(Exception):
    """The server cannot be made or started; the text says why, for the person who wanted it."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: our child, or one that a killed keeper has left behind."""

    home: Home
    pid: int
    child: "subprocess.Popen[bytes] | None"

    def is_running(self) -> bool:
        """Whether its main process is alive."""
        return is_postmaster(self.pid, self.home) if self.child is None else self.child.poll() is None

    def wait(self) -> None:
        """Block until its main process has ended."""
        if self.child is not None:
            self.child.wait()
        while self.is_running():
            time.sleep(0.2)

    def stop(self) -> None:
        """Drop its connections, write everything out and end it; if it hangs, ever more firmly."""
        for number, patience in ((signal.SIGINT, STOP_PATIENCE), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
            if not self.is_running():
                break
            os.kill(self.pid, number)
            deadline = time.monotonic() + patience
            while self.is_running() and time.monotonic() < deadline:
                time.sleep(POLL)
        if self.home.socket.is_symlink():
            shutil.rmtree(self.home.socket.resolve(), ignore_errors=True)
            self.home.socket.unlink()


def make_data(home: Home, plan: Plan) -> None:
    """
    Make the data directory if there is none, all or nothing, and see that this PostgreSQL can read it.

    It is made under another name and renamed when it is complete and on disk. What a killed maker left is removed; if
    an orphaned `initdb` is still at work in it, that one fails, alone.
    """
    for leftover in home.path.glob("data.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if home.data.is_symlink():
        raise CannotKeepError(f"{home.data} is a link, and not a directory that was made here")
    if not home.data.exists():
        new = _private_directory(plan, prefix="data.new-", parent=home.path)
        _initdb(new, plan)
        new.rename(home.data)
        _sync(home.path)
    try:
        theirs = read_plain(home.data / "PG_VERSION").strip()[:10]
    except OSError:
        raise CannotKeepError(f"{home.data} exists and is not a PostgreSQL data directory") from None
    ours = _run(plan, "postgres", "-V").split()[2].split(".")[0]
    if theirs != ours:
        raise CannotKeepError(
            f"{home.data} was made by PostgreSQL {theirs}, and this is PostgreSQL {ours}, which cannot read it: "
            f"move the data over with pg_dump of the old version, or choose another directory"
        )


def start(home: Home, plan: Plan) -> Server:
    """
    Start PostgreSQL, or take over the one that a killed keeper has left, and wait until it takes connections.

    There is no limit on the wait as long as the server is alive: after a power cut it may have much to repair.

    Raises:
        CannotKeepError: it ends by itself instead, or for `RESTART_PATIENCE` seconds it is killed or blocked by the
            remains of a killed one. Only these leave `postmaster.pid` behind.
    """
    deadline = time.monotonic() + RESTART_PATIENCE
    while True:
        left = running_postmaster(home)
        server = _launch(home, plan) if left is None else Server(home, left.pid, None)
        while server.is_running():
            postmaster = running_postmaster(home)
            if postmaster is not None and postmaster.ready and postmaster.pid == server.pid:
                return server
            time.sleep(POLL)
        if time.monotonic() > deadline or not (home.data / "postmaster.pid").exists():
            tail = _end_of(home.log.read_text(errors="replace"))
            raise CannotKeepError(f"PostgreSQL does not start in {home.path}. The end of {home.log}: {tail}")
        time.sleep(0.2)


def _end_of(text: str) -> str:
    return " / ".join(text[-1500:].strip().splitlines())


def _initdb(new: Path, plan: Plan) -> None:
    options = ["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", *plan.initdb]
    try:
        _run(plan, "initdb", "-D", str(new), *options)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise CannotKeepError(f"initdb could not make {new}: {_end_of(str(error.stderr))}") from None


def _launch(home: Home, plan: Plan) -> Server:
    socket_directory = _socket_directory(home, plan)
    _disown_stale_locks(home, socket_directory)
    settings = plan.settings | {
        "unix_socket_directories": str(socket_directory),
        "unix_socket_permissions": "0700",
        "listen_addresses": "",
        "port": str(PORT),
    }
    child = subprocess.Popen(  # noqa: S603
        [f"{plan.binaries}/postgres", "-D", str(home.data), *(f"-c{name}={value}" for name, value in settings.items())],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        env=_environment(),
        start_new_session=True,
        user=plan.user,
        group=plan.group,
        extra_groups=None if plan.user is None else [],
    )
    return Server(home, child.pid, child)


def _disown_stale_locks(home: Home, socket_directory: Path) -> None:
    """
    Keep PostgreSQL from taking an unrelated process for the server that left its lock files behind.

    In a container the process ids are small and come again, and PostgreSQL would refuse to start as long as there is
    such a process. The socket's lock file can simply go. `postmaster.pid` cannot, because it also names the shared
    memory by which PostgreSQL sees that children of a killed server are still at work in its data. But PostgreSQL
    ignores a number in there that is its parent's: ours.
    """
    socket_lock = socket_directory / f".s.PGSQL.{PORT}.lock"
    if _is_stale(recorded_postmaster(socket_lock), home):
        socket_lock.unlink()
    pid_file = home.data / "postmaster.pid"
    if _is_stale(recorded_postmaster(pid_file), home):
        lines = read_plain(pid_file).splitlines(keepends=True)
        _write_plain(pid_file, "".join([f"{os.getpid()}\n", *lines[1:]]))


def _write_plain(path: Path, text: str) -> None:
    """Write a file anew that is there already. The server's account could have put a link in its place."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _is_stale(recorded: Postmaster | None, home: Home) -> bool:
    return recorded is not None and _exists(recorded.pid) and not is_postmaster(recorded.pid, home)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _socket_directory(home: Home, plan: Plan) -> Path:
    """
    The directory for the socket, private to the server's account.

    It is `socket/` in the home. Where that path is too long for a socket, or has signs that mean something in a list of
    hosts, it is a short one under /tmp, to which `socket` is a link. A link that is there is followed, so that users
    who know the socket from before find it again after the server was restarted.
    """
    plain = str(home.socket).translate({ord(sign): None for sign in "/-_."})
    if len(os.fsencode(home.socket)) <= LONGEST_SOCKET_DIRECTORY and plain.isascii() and plain.isalnum():
        if not home.socket.is_dir():
            _private_directory(plan, prefix="socket.new-", parent=home.path).rename(home.socket)
        return home.socket
    if home.socket.is_symlink():
        target = home.socket.readlink()
        owner = os.geteuid() if plan.user is None else plan.user
        with contextlib.suppress(OSError):
            status = target.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == owner and stat.S_IMODE(status.st_mode) == 0o700:
                return target
        home.socket.unlink()
    target = _private_directory(plan, prefix="requeuest-", parent=Path("/tmp"))  # noqa: S108 - the name is random
    home.socket.symlink_to(target)
    return target


def _private_directory(plan: Plan, *, prefix: str, parent: Path) -> Path:
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    if plan.user is not None and plan.group is not None:
        os.chown(path, plan.user, plan.group)
    return path


def _run(plan: Plan, program: str, *arguments: str) -> str:
    """Run one of PostgreSQL's programs to its end and return what it printed."""
    done = subprocess.run(  # noqa: S603
        [f"{plan.binaries}/{program}", *arguments],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=_environment(),
        user=plan.user,
        group=plan.group,
        extra_groups=None if plan.user is None else [],
    )
    return done.stdout


def _environment() -> dict[str, str]:
    """What PostgreSQL sees of our environment: neither secrets of the application nor settings for other servers."""
    passed = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return passed | {"LC_ALL": "C", "TZ": "UTC"}


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
