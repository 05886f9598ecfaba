"""`requeuest demo`: the whole of it on this machine, with nothing to prepare."""

from __future__ import annotations

import logging
import os
import stat
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from shutil import which

import click
import trio
from rich.console import Console

from requeuest_trio import Request, RetryPolicy, open_requeuest
from requeuest_trio.cli.comparison import find_mismatches, target_of
from requeuest_trio.cli.delivery import channels_of, follow, store, watch_attempts
from requeuest_trio.cli.display import logging_to, make_console, say
from requeuest_trio.cli.faulty_receiver import Fault, FaultyReceiver, open_faulty_receiver
from requeuest_trio.cli.progress import showing_progress
from requeuest_trio.cli.request_file import Entry, read_requests
from requeuest_trio.cli.running import FAILED, FINE, run
from requeuest_trio.cli.signals import stopping_on_signals
from requeuest_trio.cli.summary import print_failures, print_summary
from requeuest_trio.cli.table import Column, print_table
from requeuest_trio.cli.tally import Stored, Tally

__all__ = ["demo", "example_requests"]

_SEED = 104
_RETRY = RetryPolicy(max_attempts=20, initial=0.2, max_backoff=2.0)
"""Short waits, so that the faults are seen healed."""
_ATTEMPT_SECONDS = 2.0
"""Short, so that nobody waits long for what the receiver does not answer."""
_LONGEST_SECONDS = 120.0
_MOST_MISMATCHES = 20
_ANSWERS = (Column("the receiver's answer", least=10), Column("times", at_right=True))


@click.command(short_help="See it work: 200 requests to a receiver that fails.")
def demo() -> None:
    """Deliver 200 requests to a receiver that fails half of them at first, and check that each came as it should.

    It needs nothing: PostgreSQL is an embedded one in a temporary directory, the receiver is a local one, and nothing
    is left of both. The receiver answers 503, or 429 with Retry-After, or resets the connection, or never answers.

    Exit status: 0 only if the receiver accepted every request exactly once, the same byte for byte as in the file, and
    in order where the file asks for one.

    \b
    Example:
      requeuest demo
    """
    parent = _parent_of_place()
    with tempfile.TemporaryDirectory(prefix="requeuest-demo-", dir=parent, ignore_cleanup_errors=True) as place:
        # Started by root, PostgreSQL runs under another account, which has to get through here.
        Path(place).chmod(0o711)
        run(partial(_demo, f"embedded:{place}/postgres"))


def _parent_of_place() -> Path:
    """The directory for temporary files, or `/tmp` where that is one of root's that is closed to other accounts."""
    parent = Path(tempfile.gettempdir()).resolve()
    is_open = all(directory.stat().st_mode & stat.S_IXOTH for directory in (parent, *parent.parents))
    return parent if is_open or os.geteuid() != 0 else Path("/tmp")  # noqa: S108 - a directory of its own is made there


async def _demo(dsn: str) -> int:
    out, err = make_console(sys.stdout), make_console(sys.stderr)
    entries = example_requests()
    verdict = None
    async with stopping_on_signals(partial(say, err)) as stop:
        with logging_to(err, logging.WARNING, without=["job_dead"]):
            verdict = await _deliver(entries, dsn, out, err)
    return stop.exit_status or FAILED if verdict is None else verdict


async def _deliver(entries: Sequence[Entry], dsn: str, out: Console, err: Console) -> int:
    async with AsyncExitStack() as stack:
        say(err, "starting PostgreSQL")
        began = trio.current_time()
        faulty = await stack.enter_async_context(open_faulty_receiver(_SEED))
        client = await stack.enter_async_context(open_requeuest(dsn, channels_of(entries)))
        attempt_seconds = _seconds_for_an_attempt(trio.current_time() - began)
        url = faulty.receiver.url
        say(err, f"sending {len(entries)} requests to {url}, which fails half of them at first")
        local = [replace(entry, request=_moved(entry.request, url)) for entry in entries]
        tally = Tally(await store(client, local, retry=_RETRY, attempt_seconds=attempt_seconds))
        async with trio.open_nursery() as watching:
            await watching.start(watch_attempts, client, tally)
            with trio.move_on_after(_LONGEST_SECONDS):
                async with showing_progress(tally, err):
                    await follow(client, tally)
            watching.cancel_scope.cancel()
    print_summary(out, tally)
    _print_faults(out, faulty)
    print_failures(err, tally)
    originals = {entry.line: entry for entry in entries}
    stored = [Stored(originals[one.entry.line], one.job_id) for one in tally.stored]
    return _judge(find_mismatches(stored, tally.finished, faulty.seen), len(entries), out, err)


def _seconds_for_an_attempt(start: float) -> float:
    """At least as many as PostgreSQL took to start: a slow machine needs longer for all it does.

    An answer that comes too late is lost, and its request accepted twice.
    """
    return max(_ATTEMPT_SECONDS, start)


def example_requests() -> list[Entry]:
    """The requests of the demo, as the file has them."""
    with _example_file().open("rb") as file:
        return read_requests(file)


def _example_file() -> Traversable:
    """Inside the package in a wheel, in `docs/examples` in a checkout and an editable install."""
    inside = files("requeuest_trio.cli").joinpath("requests.jsonl")
    return inside if inside.is_file() else Path(__file__).parents[3] / "docs" / "examples" / "requests.jsonl"


def _moved(request: Request, url: str) -> Request:
    """The same request to the receiver at `url`."""
    return Request(
        request.method,
        url + target_of(request.url),
        headers=request.headers,
        body=request.body,
        accept=request.accept,
        timeout=request.timeout,
        follow_redirects=request.follow_redirects,
    )


def _print_faults(console: Console, faulty: FaultyReceiver) -> None:
    rows = [(fault.value, faulty.faults[fault]) for fault in Fault]
    accepted = len(faulty.seen) - faulty.faults.total()
    print_table(console, _ANSWERS, [*rows, ("accepted", accepted)])


def _command() -> str:
    """The command as one can type it. `make run` starts it where no shell looks for it."""
    started = sys.argv[0]
    return started if Path(started).name == "requeuest" and which("requeuest") is None else "requeuest"


def _judge(mismatches: Sequence[str], number: int, out: Console, err: Console) -> int:
    if not mismatches:
        say(out, f"All {number} requests were delivered once each, and came exactly as the file has them.", "green")
        say(out, f"Next: {_command()} send FILE.jsonl --dsn embedded: ({_command()} send --help has the rest)")
        return FINE
    for mismatch in mismatches[:_MOST_MISMATCHES]:
        say(err, mismatch, "red")
    say(out, f"{len(mismatches)} mismatches between the file and what the receiver saw.", "red")
    return FAILED
