"""
The keeper: a small process that starts one embedded PostgreSQL server and stops it when nobody uses it any more.

Every user of a server holds `users.lock` shared, and the keeper waits for it exclusively. It gets it when the last
user has left or died, of whatever cause. It then stops PostgreSQL, and ends. Whoever comes meanwhile waits for the same
lock, finds no keeper, and starts a new one. Only the keeper makes, starts and stops a server, so users may
come, go, be cancelled or be killed at any time without anything half done being left.

- *The server dies while there are users*: it is started again, on the same socket.
- *The keeper is killed*: the server and its users go on. The next to come or to leave starts a new keeper, which
  takes over the running server.
- *A user dies, or is cancelled, while the server is being made*: the keeper finishes, finds nobody, and ends.

SIGINT, SIGTERM and SIGHUP do not end it: they are sent to whole process groups, and its users may have yet to clean up.
"""

import contextlib
import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from requeuest_trio._embedded.files import EXCLUSIVE, Home, is_locked, running_postmaster, unlock
from requeuest_trio._embedded.server import CannotKeepError, Plan, Server, make_data, start

LARGEST_LOG = 10_000_000
"""Bytes. A larger log is put aside when a keeper starts."""


def start_keeper(plan: Plan, keeper_lock: int) -> int:
    """
    Start a keeper and hand it its lock. Blocks for some ten milliseconds.

    Args:
        plan: what to keep.
        keeper_lock: the descriptor that holds `keeper.lock`. It is closed here; the lock is the keeper's from now on.

    Returns:
        The reading end of a pipe, to be closed by the caller. If the keeper ends without having started the server, its
        reason is in there.
    """
    report, reason = os.pipe()
    try:
        subprocess.run(  # noqa: S603
            [sys.executable, "-I", "-S", str(Path(__file__).parent), json.dumps(asdict(plan)), str(keeper_lock)],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=reason,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(keeper_lock,),
        )
    except BaseException:
        os.close(report)
        raise
    finally:
        os.close(reason)
        os.close(keeper_lock)
    return report


def main(plan: Plan, keeper_lock: int) -> None:
    """Live the keeper's life, detached from whoever started it: when this forks, `start_keeper` returns."""
    if os.fork() != 0:
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which PostgreSQL would inherit
    os.umask(0o077)
    home = Home(Path(plan.home))
    try:
        os.chdir(home.path)
        _open_log(home)
        _keep(home, plan)
    except CannotKeepError as error:
        _tell(str(error))
    except Exception as error:
        traceback.print_exc()
        _tell(repr(error))
    finally:
        unlock(keeper_lock)


def _keep(home: Home, plan: Plan) -> None:
    make_data(home, plan)
    if running_postmaster(home) is None and not is_locked(home.users_lock, EXCLUSIVE):
        return  # they have gone already
    server = start(home, plan)
    _redirect(os.devnull, sys.stdout.fileno())  # nothing can go wrong any more that would be the starter's to hear
    events: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_wait_for_the_last_user, args=(home, events), daemon=True).start()
    while True:
        threading.Thread(target=_wait_for_the_end, args=(server, events), daemon=True).start()
        if events.get() == "nobody":
            break
        server = _restart(server, plan, events)
    server.stop()


def _restart(ended: Server, plan: Plan, events: "queue.SimpleQueue[str]") -> Server:
    """Start the server again, as often as it takes while there are users: a full disk may have room again."""
    _log("the server has ended while it was in use; starting it again")
    while events.empty():
        time.sleep(0.1)  # so that a server that dies again and again is no busy loop
        try:
            return start(ended.home, plan)
        except CannotKeepError as error:
            _log(str(error))
            time.sleep(1.0)
    return ended


def _wait_for_the_last_user(home: Home, events: "queue.SimpleQueue[str]") -> None:
    users_lock = os.open(home.users_lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    fcntl.flock(users_lock, fcntl.LOCK_EX)  # and keep it until this process ends: nobody comes in while we stop
    events.put("nobody")


def _wait_for_the_end(server: Server, events: "queue.SimpleQueue[str]") -> None:
    server.wait()
    events.put("ended")


def _open_log(home: Home) -> None:
    with contextlib.suppress(FileNotFoundError):
        if home.log.lstat().st_size > LARGEST_LOG:
            home.log.rename(home.log.with_suffix(".log.1"))
    _redirect(home.log, sys.stderr.fileno())


def _redirect(path: Path | str, descriptor: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.dup2(file, descriptor)
    os.close(file)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201  # our only way out; it is the log file


def _tell(reason: str) -> None:
    _log(reason)
    with contextlib.suppress(OSError):  # nobody may be listening any more
        os.write(sys.stdout.fileno(), reason.encode(errors="replace")[:4000])
