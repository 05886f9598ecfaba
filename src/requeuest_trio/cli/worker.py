"""`requeuest worker`: deliver what other processes put into the queue."""

from __future__ import annotations

import gc
import logging
import random
import shlex
import sys
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from functools import partial

import click
import trio
from rich.console import Console

from requeuest_trio import ALL, Client, Config, DatabaseUnavailable, open_requeuest
from requeuest_trio.cli import options
from requeuest_trio.cli.display import logging_to, make_console, one_line, say
from requeuest_trio.cli.names import remark_on
from requeuest_trio.cli.refusals import has_remedy, is_refusal
from requeuest_trio.cli.running import FINE, run
from requeuest_trio.cli.signals import stopping_on_signals

__all__ = ["worker"]

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_REMEDY = (
    ": give a user, password and database that the server has (in --dsn, PGPASSWORD or ~/.pgpass), or create or permit "
    "them there"
)
"""Of a server whose words are not known."""


@click.command(short_help="Deliver what is in the queue, until it is stopped.")
@click.argument("channels", nargs=-1, metavar="[CHANNEL...]")
@click.option("--all", "everything", is_flag=True, help="Deliver every channel, also those that appear later.")
@options.dsn_option
@options.schema_option
@options.migrate_option
@options.concurrency_option
@click.option(
    "--grace",
    type=click.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long requests under way may take to finish after the first signal.",
)
@options.sensitive_option
@click.option("--verbose", "-v", is_flag=True, help="Tell of every attempt.")
def worker(
    channels: tuple[str, ...],
    everything: bool,
    dsn: str,
    schema: str,
    migrate: bool,
    concurrency: int,
    grace: float,
    sensitive: Collection[str],
    verbose: bool,
) -> None:
    """Deliver the requests of some channels, or of all, until SIGINT (Ctrl-C), SIGTERM or SIGHUP.

    The first signal lets the requests under way finish, and takes on no more; the second ends it at once. What is not
    finished then goes back to the queue, its attempt not counted. Any number of workers may share a channel.

    If the database does not answer at the start, it is waited for; later outages are survived. If it refuses the user,
    the password or the name of the database at the start, that is said, and the exit status is 2. Standard error tells
    what happens. Exit status otherwise: 0 after the first signal, after the second 130, 143 or 129. Under nohup, SIGHUP
    is ignored, and so is SIGINT with & in a script.

    \b
    Example:
      requeuest worker billing mail --dsn postgresql:///app
    """
    if bool(channels) == everything:
        why = ", not both: --all already means every channel" if everything else ""
        raise click.UsageError(f"name the channels to deliver, or say --all{why}")
    for name in channels:
        remark_on(name, f"for several: requeuest worker {shlex.join(filter(None, name.split(',')))}")
    queue = partial(
        open_requeuest,
        dsn,
        ALL if everything else channels,
        schema=schema,
        migrate=migrate,
        concurrency=concurrency,
        grace=grace,
        config=Config(sensitive=sensitive),
    )
    names = "all channels" if everything else f"channels {', '.join(channels)}"
    greeting = f"delivering {names}; Ctrl-C or SIGTERM stops"
    farewell = f"finishing the requests under way, for {grace:g} s at most"
    run(partial(_work, dsn, queue, greeting, farewell, logging.DEBUG if verbose else logging.INFO))


async def _work(
    dsn: str, open_queue: Callable[[], AbstractAsyncContextManager[Client]], greeting: str, farewell: str, level: int
) -> int:
    err = make_console(sys.stderr)
    async with stopping_on_signals(partial(say, err)) as stop:
        with logging_to(err, level):
            pause = _FIRST_PAUSE
            while stop.received is None:
                try:
                    async with open_queue():
                        _freeze_what_stays()
                        say(err, greeting)
                        with stop.gracefully(farewell):
                            await trio.sleep_forever()
                except DatabaseUnavailable as error:
                    pause = await _wait_for_database(error, dsn, pause, err)
    say(err, "stopped")
    return FINE if stop.signals == 1 else stop.exit_status


def _freeze_what_stays() -> None:
    """Spare the garbage collector what is there by now and stays until the end: modules, statements, connections.

    It would look through all of that again and again. A process that does something else too must decide for itself.
    """
    gc.collect()
    gc.freeze()


async def _wait_for_database(error: DatabaseUnavailable, dsn: str, pause: float, err: Console) -> float:
    """Wait a while, and return how long to wait the next time. Spread, so that many workers do not come at once.

    Raises:
        DatabaseUnavailable: waiting will not help.
    """
    if await is_refusal(error, dsn):
        remedy = "" if has_remedy(error) else _REMEDY
        raise DatabaseUnavailable(f"{error}; waiting will not help{remedy}") from error
    pause *= random.uniform(0.75, 1.25)  # noqa: S311 - no secret
    say(err, f"{one_line(str(error))}; trying again in {pause:.1f} s")
    await trio.sleep(pause)
    return min(pause * 2, _LONGEST_PAUSE)
