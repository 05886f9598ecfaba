"""
Transaction poolers in front of a server, as processes: PgBouncer where it is installed, and one of the tests' own.

Everything here blocks, but never for long::

    with running_pooler(server, OWN) as pooler:
        async with open_requeuest(pooler.dsn("app")):
            ...
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from requeuest_trio._embedded.account import let_in, server_account
from requeuest_trio._embedded.server import PORT as SERVER_PORT
from tests.servers import TestServer, in_use, temporary_home, wait_for

POOLER_VARIABLE = "REQUEUEST_TEST_POOLER"
OWN, PGBOUNCER = "own", "pgbouncer"
PORT = 6432
SESSIONS = 4
"""That a pooler has with the server, for each database."""

_INI = """
[databases]
* = host={host} port={port}
[pgbouncer]
pool_mode = {mode}
unix_socket_dir = {home}
listen_port = {own_port}
auth_type = trust
auth_file = {home}/users
default_pool_size = {sessions}
max_client_conn = 1000
server_login_retry = 0.1
logfile = {home}/log
"""


_passed_by: "list[Pooler]" = []


class Pooler:
    """One pooler, which can be killed and started again."""

    def __init__(self, server: TestServer, home: Path, command: list[str], account: pwd.struct_passwd | None) -> None:
        self._server = server
        self._home = home
        self._command = command
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None

    def dsn(self, database: str = "postgres") -> str:
        return self.through(self._server.dsn(database))

    def through(self, dsn: str) -> str:
        """The way to the same database through the pooler."""
        return make_conninfo(dsn, host=str(self._home), port=PORT)

    def past(self, dsn: str) -> str:
        """The way to the same database that does not lead through this pooler, whether or not this one does."""
        if conninfo_to_dict(dsn).get("host") != str(self._home):
            return dsn
        return make_conninfo(dsn, host=str(self._server.socket_dir), port=SERVER_PORT)

    def start(self) -> None:
        # The shell ends it when this process ends, however that comes.
        script = '"$@" & cat; kill -9 $!; wait $!'
        address = self._home / f".s.PGSQL.{PORT}"
        address.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", *self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            user=None if self._account is None else self._account.pw_uid,
            group=None if self._account is None else self._account.pw_gid,
            extra_groups=None if self._account is None else [],
        )

        def answers() -> bool:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(address))
                return True
            return False

        wait_for(answers)

    def kill(self) -> None:
        """kill -9: all connections through it are cut."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def is_installed() -> bool:
    return _pgbouncer() is not None


@contextlib.contextmanager
def running_pooler(
    server: TestServer,
    kind: str,
    *,
    mode: str = "transaction",
    sessions: int = SESSIONS,
    way: tuple[str, int] | None = None,
    options: str = "",
) -> Iterator[Pooler]:
    """
    A pooler in front of a server.

    Args:
        server: which server.
        kind: `OWN`, or `PGBOUNCER`.
        mode: of PgBouncer's pooling.
        sessions: how many it has with the server at most, for each database.
        way: host and port by which it reaches the server, such as those of a proxy.
        options: more lines for PgBouncer's configuration.
    """
    host, port = way or (str(server.socket_dir), SERVER_PORT)
    with temporary_home() as home, in_use(home):
        account = server_account() if kind == PGBOUNCER else None
        if account is not None:
            let_in(account, home)
            os.chown(home, account.pw_uid, account.pw_gid)
        if kind == PGBOUNCER:
            ini = home / "ini"
            ini.write_text(
                _INI.format(host=host, port=port, home=home, own_port=PORT, mode=mode, sessions=sessions) + options
            )
            (home / "users").write_text('"postgres" ""\n')
            command = [str(_pgbouncer()), str(ini)]
        else:
            program = str(Path(__file__).with_name("pooler.py"))
            command = [
                sys.executable,
                program,
                f"{host}:{port}" if way else f"{host}/.s.PGSQL.{port}",
                str(home / f".s.PGSQL.{PORT}"),
                str(sessions),
            ]
        pooler = Pooler(server, home, command, account)
        pooler.start()
        try:
            yield pooler
        finally:
            pooler.kill()


@contextlib.contextmanager
def passed_by(pooler: Pooler) -> Iterator[None]:
    """As long as this block lasts, `direct` leads past the pooler."""
    _passed_by.append(pooler)
    try:
        yield
    finally:
        _passed_by.remove(pooler)


def direct(dsn: str) -> str:
    """The way to a database past the pooler that all tests run behind, if they do."""
    for pooler in _passed_by:
        dsn = pooler.past(dsn)
    return dsn


def _pgbouncer() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
