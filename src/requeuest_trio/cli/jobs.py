"""`requeuest jobs`: list what is in the queue."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Collection
from functools import partial
from typing import Any

import click

from requeuest_trio import Job, JobState
from requeuest_trio.cli import options
from requeuest_trio.cli.display import make_console, moment, say
from requeuest_trio.cli.documents import job_document
from requeuest_trio.cli.dsn import every_job, open_existing
from requeuest_trio.cli.names import remark_on
from requeuest_trio.cli.running import FINE, run
from requeuest_trio.cli.table import Column, print_table
from requeuest_trio.masking import masked_url

__all__ = ["jobs"]

_COLUMNS = (
    Column("id", least=12, by_ending=True),
    Column("channel", least=10),
    Column("state"),
    Column("attempts", at_right=True, leaves=3),
    Column("status", at_right=True, leaves=4),
    Column("due or finished", leaves=1),
    Column("request", least=20, leaves=5),
    Column("last error", least=20, leaves=2),
)
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
@click.option("--newest", is_flag=True, help="The last N instead of the first. It reads all of them.")
@options.sensitive_option
@options.json_option
def jobs(
    dsn: str,
    schema: str,
    channel: str | None,
    state: str | None,
    limit: int,
    newest: bool,
    sensitive: Collection[str],
    as_json: bool,
) -> None:
    """List jobs, the oldest first. Nothing is created or changed.

    On a terminal that is too narrow, values are cut and columns left out; of an id the last digits remain, which are
    enough for `requeuest show`. In a file or a pipe everything is whole.

    With --json, each line is a JSON object with id, channel, state, method, url, priority, ordering_key, attempts,
    status, error, created_at, due_at and finished_at. What looks secret in URLs is masked.

    \b
    Example:
      requeuest jobs --dsn postgresql:///app --channel billing --state dead
    """
    printer = _JsonLines(sensitive) if as_json else _Table(sensitive)
    wanted = None if state is None else JobState(state)
    run(partial(_jobs, dsn, schema, channel, wanted, limit, newest and limit > 0, printer))


async def _jobs(
    dsn: str,
    schema: str,
    channel: str | None,
    state: JobState | None,
    limit: int,
    newest: bool,
    printer: _JsonLines | _Table,
) -> int:
    found = 0
    waiting: deque[Any] = deque(maxlen=limit if newest else None)
    async with open_existing(dsn, schema) as client, every_job(client, channel=channel, state=state) as every:
        async for job in every:
            found += 1
            if found > limit > 0 and not newest:
                break
            waiting.append(printer.row(job))
            if len(waiting) == _PAGE and not newest:
                # In pages, so that a long list needs little memory.
                printer.print(waiting)
                waiting.clear()
    if waiting or not found:
        printer.print(waiting)
    if channel is not None and not found:
        remark_on(channel, "--channel takes one")
    if found > limit > 0:
        which = "last" if newest else "first"
        say(make_console(sys.stderr), f"these are the {which} {limit}; there are more: raise --limit, or 0 for all")
    return FINE


class _JsonLines:
    def __init__(self, sensitive: Collection[str]) -> None:
        self._sensitive = sensitive

    def row(self, job: Job) -> str:
        return json.dumps(job_document(job, self._sensitive))

    def print(self, rows: Collection[str]) -> None:
        for row in rows:
            print(row)


class _Table:
    def __init__(self, sensitive: Collection[str]) -> None:
        self._sensitive = sensitive

    def row(self, job: Job) -> tuple[object, ...]:
        request = f"{job.request.method} {masked_url(job.request.url, self._sensitive)}"
        instant = moment(job.finished_at or job.due_at)
        status = "" if job.status is None else job.status
        error = masked_url(job.error or "", self._sensitive)
        return job.id, job.channel, job.state, job.attempts, status, instant, request, error

    def print(self, rows: Collection[tuple[object, ...]]) -> None:
        console = make_console(sys.stdout)
        if rows:
            print_table(console, _COLUMNS, [*rows])
        else:
            say(console, "no jobs")
