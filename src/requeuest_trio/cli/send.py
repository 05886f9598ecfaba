"""`requeuest send`: deliver the requests of a file."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from shlex import quote
from typing import BinaryIO

import click
import trio
from rich.console import Console

from requeuest_trio import Client, Config, DatabaseUnavailable, RetryPolicy, open_requeuest
from requeuest_trio.cli import options
from requeuest_trio.cli.delivery import channels_of, follow, read_outcomes, store, watch_attempts
from requeuest_trio.cli.display import logging_to, make_console, one_line, say
from requeuest_trio.cli.dsn import option_of
from requeuest_trio.cli.names import remark_on
from requeuest_trio.cli.progress import showing_progress
from requeuest_trio.cli.request_file import BadLines, Entry, read_requests
from requeuest_trio.cli.running import FAILED, FINE, IMPOSSIBLE, leaves, run
from requeuest_trio.cli.signals import stopping_on_signals
from requeuest_trio.cli.summary import as_document, print_failures, print_summary
from requeuest_trio.cli.tally import Tally

__all__ = ["send"]

_Opener = Callable[[], AbstractAsyncContextManager[Client]]

_MOST_PROBLEMS = 20
_FAREWELL = "finishing the requests under way"


@click.command()
@click.argument("file", type=click.File("rb"), metavar="FILE.jsonl")
@options.dsn_option
@click.option(
    "--channel", default="default", show_default=True, metavar="NAME", help="The channel of lines that name none."
)
@options.schema_option
@options.migrate_option
@options.concurrency_option
@click.option(
    "--max-attempts",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Give a request up after so many attempts. By default it is tried for years, ever more rarely.",
)
@options.sensitive_option
@options.json_option
def send(
    file: BinaryIO,
    channel: str,
    dsn: str,
    schema: str,
    migrate: bool,
    concurrency: int,
    max_attempts: int | None,
    sensitive: Collection[str],
    as_json: bool,
) -> None:
    """Deliver the requests of FILE.jsonl, and wait until it is done.

    Each line is a JSON object; - reads standard input. method and url are required; the rest is optional:

    \b
      headers        {"X-Tag": "a"} or [["X-Tag", "a"], ["X-Tag", "b"]]
      json           the body, sent as compact JSON; or instead
      body           the body as text; or instead
      body_base64    the body as bytes
      channel        the queue's channel, instead of that of --channel
      ordering_key   lines with the same channel and key are delivered one after the other
      accept         the statuses that mean "delivered": 204, "2xx", "200-204", or a list of these
      timeout        seconds for each attempt
      follow_redirects   true or false

    All lines are checked before any is stored, and then stored together. What else waits in the same channels is
    delivered too. After Ctrl-C the requests under way are finished; the rest stays in the queue, and the last line has
    the command that delivers it.

    Exit status: 0 if all were delivered, 1 if some were given up, 2 if nothing was sent.

    With --json, standard output has one object: requests, delivered, given_up, attempts, latency (p50, p95 and max, in
    seconds), unfinished, channels (the same for each), and given_up_jobs (line, id, state, status and error of each).

    \b
    Example:
      echo '{"method": "POST", "url": "https://api.example.com/", "json": {"order": 7}}' > requests.jsonl
      requeuest send requests.jsonl --dsn postgresql:///app --migrate
    """
    remark_on(channel, "--channel takes one, and a line may name its own")
    name = "standard input" if file is sys.stdin.buffer else one_line(str(file.name))
    try:
        entries = read_requests(file, channel=channel)
    except BadLines as error:
        _refuse(error, name)
    except OSError as error:
        print(f"requeuest: {name} can't be read: {error.strerror}; nothing was stored or sent", file=sys.stderr)
        sys.exit(IMPOSSIBLE)
    if not entries:
        print("requeuest: there are no requests in it, so there is nothing to send", file=sys.stderr)
        sys.exit(FINE)
    queue = partial(
        open_requeuest,
        dsn,
        channels_of(entries),
        migrate=migrate,
        schema=schema,
        concurrency=concurrency,
        config=Config(sensitive=sensitive),
    )
    reopen = partial(open_requeuest, dsn, (), schema=schema)
    retry = None if max_attempts is None else RetryPolicy(max_attempts=max_attempts)
    resuming = partial(_resuming, entries, dsn, schema, sensitive)
    run(partial(_send, entries, queue, reopen, retry, resuming, sensitive, as_json=as_json))


def _resuming(entries: Sequence[Entry], dsn: str, schema: str, sensitive: Collection[str]) -> str:
    """The command that delivers what is left."""
    names = " ".join(quote(name) for name in channels_of(entries))
    other_schema = "" if schema == "requeuest" else f" --schema {schema}"
    hiding = "".join(f" --sensitive {quote(name)}" for name in sorted(sensitive))
    option, remark = option_of(dsn)
    return f"requeuest worker {names}{option}{other_schema}{hiding}{remark and f' ({remark})'}"


def _refuse(error: BadLines, name: str) -> None:
    for number, problem in error.problems[:_MOST_PROBLEMS]:
        print(f"requeuest: {name}, line {number}: {one_line(problem)}", file=sys.stderr)
    if len(error.problems) > _MOST_PROBLEMS:
        print(f"requeuest: and {len(error.problems) - _MOST_PROBLEMS} more", file=sys.stderr)
    print("requeuest: nothing was stored or sent", file=sys.stderr)
    sys.exit(IMPOSSIBLE)


async def _send(
    entries: Sequence[Entry],
    open_queue: _Opener,
    reopen: _Opener,
    retry: RetryPolicy | None,
    resuming: Callable[[], str],
    sensitive: Collection[str],
    *,
    as_json: bool,
) -> int:
    out, err = make_console(sys.stdout), make_console(sys.stderr)
    tally, seen = None, 0

    def count() -> None:
        nonlocal seen
        seen = 0 if tally is None else tally.overall.delivered

    async with stopping_on_signals(partial(say, err)) as stop:
        with logging_to(err, logging.WARNING, without=["job_dead"]):
            # The attempts are watched until the queue is closed: some end while it drains.
            async with trio.open_nursery() as watching, open_queue() as client:
                tally = Tally(await store(client, entries, retry=retry))
                await watching.start(watch_attempts, client, tally)
                with stop.gracefully(_FAREWELL, at_signal=count):
                    async with showing_progress(tally, err):
                        await follow(client, tally)
    if tally is None:
        say(err, "stopped while the requests were being stored: either all of them are in the queue, or none")
        return stop.exit_status
    if tally.unfinished:
        await _read_the_rest(tally, reopen, err)
    try:
        if as_json:
            print(json.dumps(as_document(tally, sensitive)), flush=True)
        else:
            print_summary(out, tally)
    finally:
        # What remains is told of also where the summary can't be written.
        print_failures(err, tally, sensitive)
        if stop.received is not None:
            late = max(0, tally.overall.delivered - seen)
            say(err, f"{late} delivered after {stop.received.name}; {_remainder(tally, resuming)}")
    if tally.unfinished:
        return stop.exit_status
    return FAILED if tally.overall.given_up else FINE


async def _read_the_rest(tally: Tally, reopen: _Opener, err: Console) -> None:
    """Find out what the database has recorded while the queue was closed. A signal ends this, too."""
    await trio.lowlevel.checkpoint()
    try:
        async with stopping_on_signals(partial(say, err)), reopen() as client:
            await read_outcomes(client, tally)
    except* DatabaseUnavailable as group:
        say(err, f"what was recorded last cannot be read: {one_line(str(leaves(group)[0]))}")


def _remainder(tally: Tally, resuming: Callable[[], str]) -> str:
    if not (number := len(tally.unfinished)):
        return "none remain in the queue"
    how_sure = "" if len(tally.left) == number else "at most "
    return f"{how_sure}{number} remain in the queue; to deliver them: {resuming()}"
