"""
A PostgreSQL of one test's own, which it may ill-treat: with a data directory of its own, and fsync=on.

It can be stopped as by a power cut, started again on the same socket, lose one of its processes, run out of room for
its log, and have a replica that takes over. Everything here blocks; call it from Trio in a thread::

    with throwaway_server() as server:
        await migrate(server.dsn())
        await trio.to_thread.run_sync(server.restart)

The servers end with the test, also if the test is killed: see `server_guard.py`.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from requeuest_trio._embedded.account import let_in, server_account
from requeuest_trio._embedded.server import PORT
from tests.servers import binaries, in_use, temporary_home, wait_for

SETTINGS = {
    "fsync": "on",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "timezone": "UTC",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": str(PORT),
    "wal_retrieve_retry_interval": "50ms",
}

BALLAST = "ballast"
START_PATIENCE = 30.0


class CannotStartError(Exception):
    """The server has ended by itself; the text is the end of its log."""


class Throwaway:
    """One server. `data`, `socket` and `log` stay where they are, however often it is started."""

    def __init__(
        self, home: Path, account: pwd.struct_passwd | None, settings: dict[str, str], programs: Path | None = None
    ) -> None:
        self.data = home / "data"
        self.socket = home / "socket"
        self.room = home / "room"
        self.wal = self.room / "wal"
        self.tablespace = self.room / "tables"
        self.log = home / "server.log"
        self._home = home
        self._account = account
        self._settings = SETTINGS | settings
        self._programs = binaries() if programs is None else programs
        self._process: subprocess.Popen[bytes] | None = None
        self._own_directory(home)
        self._own_directory(self.socket)

    def dsn(self, database: str = "postgres", **parameters: str) -> str:
        port = self._settings["port"]
        return make_conninfo(host=str(self.socket), port=port, user="postgres", dbname=database, **parameters)

    # --- starting and stopping ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, and wait until it takes connections: after a crash it repairs its data first."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start it, and don't wait."""
        assert not self.is_running
        settings = self._settings | {"unix_socket_directories": str(self.socket)}
        options = [f"-c{name}={value}" for name, value in settings.items()]
        with self.log.open("ab") as log:
            self._process = self._popen("postgres", "-D", str(self.data), *options, output=log.fileno())

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait until it takes connections, as after a crash of one of its processes."""

        def answers() -> bool:
            if not self.is_running:
                raise CannotStartError(self.log.read_text(errors="replace")[-2000:])
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.dsn(), connect_timeout=2):
                return True
            return False

        wait_for(answers, patience=START_PATIENCE)

    def stop(self, *, immediate: bool = True) -> None:
        """End it: at once, as a power cut would, so that it has to repair its data; or in order."""
        if self.is_running:
            self.go_on()
            os.kill(self.pid, signal.SIGQUIT if immediate else signal.SIGINT)
        self.wait_until_ended()

    def wait_until_ended(self) -> None:
        """Wait until it has ended by itself."""
        if self._process is not None:
            self._process.wait(30)

    def restart(self, *, immediate: bool = True) -> None:
        self.stop(immediate=immediate)
        self.start()

    def stand_still(self) -> None:
        """SIGSTOP to all of it: the kernel goes on accepting connections for it, and nothing is ever answered."""
        os.kill(self.pid, signal.SIGSTOP)
        for pid in self._children():
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """The opposite of `stand_still`."""
        for pid in (*self._children(), self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _children(self) -> list[int]:
        return list(map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()))

    def kill_backend(self, pid: int) -> None:
        """
        Kill the server's process for one connection: then all are thrown out, and the data are repaired.

        Returns once they are thrown out; `wait_until_ready` waits for the rest.
        """
        assert f"\nPPid:\t{self.pid}\n" in Path(f"/proc/{pid}/status").read_text()
        with psycopg.connect(self.dsn(), autocommit=True) as witness:
            os.kill(pid, signal.SIGKILL)

            def is_thrown_out() -> bool:
                with contextlib.suppress(psycopg.OperationalError):
                    witness.execute("select 1")
                    return False
                return True

            wait_for(is_thrown_out)

    # --- a small room -------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Leave no room on the small file system. Needs a server with `wal_room` or `table_room`."""
        with contextlib.suppress(OSError), (self.room / BALLAST).open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(65_536))
        assert shutil.disk_usage(self.room).free == 0

    def make_room(self) -> None:
        """Take away what `fill` has left."""
        (self.room / BALLAST).unlink()

    # --- a replica ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def replica(self, settings: dict[str, str] | None = None) -> Iterator["Throwaway"]:
        """A server that follows this one, asynchronously, until it is told to take over by `promote`."""
        standby = Throwaway(
            self._home.with_name("replica"), self._account, self._settings | (settings or {}), self._programs
        )
        standby.run("pg_basebackup", "-D", str(standby.data), "-R", "-c", "fast", "-d", self.dsn())
        with standby.running():
            yield standby

    def promote(self) -> None:
        """Let a replica become the server that is written to; returns when it is."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            assert connection.execute("select pg_promote()").fetchone() == (True,)

    # --- what it is made of -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def running(self) -> Iterator["Throwaway"]:
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def make(self, wal_room: int | None, table_room: int | None) -> None:
        """Make the data directory, with the log or a tablespace in a small room, if its bytes are given."""
        options = ["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--wal-segsize=1"]
        if wal_room is not None or table_room is not None:
            self.room.mkdir()
            size = f"size={wal_room or table_room}"
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", self.room], check=True)
            self._own_directory(self.wal if wal_room is not None else self.tablespace)
        if wal_room is not None:
            options += ["-X", str(self.wal)]
        self.run("initdb", "-D", str(self.data), *options)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end."""
        with self._popen(program, *arguments, output=subprocess.PIPE) as process:
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, f"{program}: {output.decode(errors='replace')}"

    def _popen(self, program: str, *arguments: str, output: int) -> subprocess.Popen[bytes]:
        passed = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        return subprocess.Popen(
            [str(self._programs / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=passed | {"LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,  # so that Ctrl-C ends the test, and not the server under its feet
            user=None if self._account is None else self._account.pw_uid,
            group=None if self._account is None else self._account.pw_gid,
            extra_groups=None if self._account is None else [],
        )

    def write(self, name: str, content: bytes) -> None:
        """Put a file into the data directory, which the server alone may read."""
        path = self.data / name
        path.write_bytes(content)
        path.chmod(0o600)
        self._own(path)

    def _own_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700)
        self._own(path)

    def _own(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)


@contextlib.contextmanager
def throwaway_server(
    settings: dict[str, str] | None = None,
    *,
    wal_room: int | None = None,
    table_room: int | None = None,
    programs: Path | None = None,
    prepare: Callable[[Throwaway], None] = lambda _: None,
) -> Iterator[Throwaway]:
    """
    A running server with an empty database `postgres`; afterwards nothing of it is left.

    Args:
        settings: PostgreSQL settings on top of `SETTINGS`.
        wal_room: bytes for the write-ahead log, on a file system of its own that can be filled. Only root can mount it.
        table_room: bytes for a tablespace at `tablespace`, likewise. One of the two.
        programs: where `initdb` and `postgres` are; None is where the session's are.
        prepare: called before it starts, to `write` files.
    """
    with temporary_home() as path, _watched(path), in_use(path):
        account = server_account()
        if account is not None:
            let_in(account, path)
        server = Throwaway(path / "primary", account, settings or {}, programs)
        server.make(wal_room, table_room)
        prepare(server)
        with server.running():
            yield server


@contextlib.contextmanager
def _watched(path: Path) -> Iterator[None]:
    """Whatever ends this process, the servers below `path` end, and nothing stays mounted there."""
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("server_guard.py")), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as guard:
        try:
            yield
        finally:
            assert guard.stdin is not None
            guard.stdin.close()
            assert guard.wait(30) == 0
