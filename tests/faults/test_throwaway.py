"""The server that the fault tests ill-treat: what is committed survives, and nothing of it survives the test."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from requeuest_trio._embedded.files import EXCLUSIVE, Home, is_locked
from tests.server_guard import is_server
from tests.servers import wait_for
from tests.throwaway import throwaway_server

ROOT = Path(__file__).parents[2]

# Prints where the server is, and then waits to be killed.
HOLDER = """
import sys
from tests.throwaway import throwaway_server

with throwaway_server(wal_room=int(sys.argv[1]) or None) as server:
    print(server.data, server.pid, flush=True)
    sys.stdin.read()
"""


def test_what_is_committed_survives_every_kind_of_end() -> None:
    with throwaway_server() as server:
        dsn = server.dsn()
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("create table kept (how text)")

        def keep(how: str) -> int:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("insert into kept values (%s)", [how])
                return connection.info.backend_pid

        keep("stopped at once")
        server.restart()
        keep("stopped in order")
        server.restart(immediate=False)
        with psycopg.connect(dsn) as victim:
            keep("a process killed")
            server.kill_backend(victim.info.backend_pid)
        server.wait_until_ready()
        with server.replica() as standby:
            keep("replicated")
            with psycopg.connect(standby.dsn(), autocommit=True) as reader:
                wait_for(lambda: reader.execute("select from kept where how = 'replicated'").rowcount == 1)
            server.stop()
            standby.promote()
            with psycopg.connect(standby.dsn(), autocommit=True) as connection:
                connection.execute("insert into kept values ('promoted')")
                assert len(connection.execute("select from kept").fetchall()) == 5


@pytest.mark.parametrize(
    "wal_room",
    [0, pytest.param(24 << 20, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount"))],
)
def test_a_test_that_is_killed_leaves_nothing_running(wal_room: int) -> None:
    command = [sys.executable, "-c", HOLDER, str(wal_room)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        data, pid = holder.stdout.readline().split()
        assert is_server(int(pid), Path(data))
        assert (Path(data).parent / "room").is_mount() == bool(wal_room)
        holder.send_signal(signal.SIGKILL)
    home = Path(data).parents[1]
    try:
        wait_for(lambda: not is_server(int(pid), Path(data)))
        wait_for(lambda: not (Path(data).parent / "room").is_mount())
        # So that the next session removes it, once it is old enough.
        assert not is_locked(Home(home).users_lock, EXCLUSIVE)
    finally:
        subprocess.run(["rm", "-rf", str(home)], check=True)
