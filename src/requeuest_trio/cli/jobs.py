"""`requeuest jobs`: list what is in the queue."""

from __future__ import annotations

import json
import sys
from functools import partial

import click
from rich.console import Console

from requeuest_trio import Job, JobState, open_requeuest
from requeuest_trio._model.headers import masked_url
from requeuest_trio.cli import options
from requeuest_trio.cli.display import make_console, moment, print_table, say
from requeuest_trio.cli.documents import job_document
from requeuest_trio.cli.running import FINE, run

__all__ = ["jobs"]

_COLUMNS = ("id", "channel", "state", "attempts", "status", "due or finished", "request", "last error")
_PAGE = 500


@click.command()
@options.dsn_option
@options.schema_option
@click.option("--channel", metavar="NAME", help="Only those of this channel.")
@click.option("--state", type=click.Choice([str(state) for state in JobState]), help="Only those in this state.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    metavar="N",
    help="At most so many; 0 is all.",
)
@options.json_option
def jobs(dsn: str, schema: str, channel: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List jobs, the oldest first.

    With --json, each line is a JSON object with id, channel, state, method, url, priority, ordering_key, attempts,
    status, error, created_at, due_at and finished_at. What looks secret in URLs is masked.

    \b
    Example:
      requeuest jobs --dsn postgresql:///app --channel billing --state dead
    """
    console = make_console(sys.stdout)
    printer = _JsonLines() if as_json else _Table(console)
    wanted = None if state is None else JobState(state)
    run(partial(_jobs, dsn, schema, channel, wanted, limit, printer))


async def _jobs(
    dsn: str, schema: str, channel: str | None, state: JobState | None, limit: int, printer: _JsonLines | _Table
) -> int:
    number = 0
    async with open_requeuest(dsn, (), schema=schema) as client:
        async for job in client.jobs(channel=channel, state=state):
            if limit and number == limit:
                say(
                    make_console(sys.stderr),
                    f"these are the first {limit}; there are more: raise --limit, or 0 for all",
                )
                break
            printer.add(job)
            number += 1
    printer.finish()
    return FINE


class _JsonLines:
    """Prints each job as it comes."""

    def add(self, job: Job) -> None:
        print(json.dumps(job_document(job)))

    def finish(self) -> None:
        """Nothing is left to do."""


class _Table:
    """Prints jobs in pages, so that a long list needs little memory."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: list[tuple[object, ...]] = []
        self._printed = False

    def add(self, job: Job) -> None:
        """Take a job, and print the page once it is full."""
        request = f"{job.request.method} {masked_url(job.request.url)}"
        instant = moment(job.finished_at or job.due_at)
        status = "" if job.status is None else job.status
        self._rows.append(
            (job.id, job.channel, job.state, job.attempts, status, instant, request, masked_url(job.error or ""))
        )
        if len(self._rows) == _PAGE:
            self._print()

    def finish(self) -> None:
        """Print what is left."""
        if self._rows:
            self._print()
        elif not self._printed:
            say(self._console, "no jobs")

    def _print(self) -> None:
        print_table(self._console, _COLUMNS, self._rows, right=("attempts", "status"))
        self._printed = True
        self._rows.clear()
