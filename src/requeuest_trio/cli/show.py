"""`requeuest show`: all that is known of one job."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from functools import partial
from string import hexdigits
from uuid import UUID

import click
from rich.console import Console

from requeuest_trio import Attempt, Client, Job, JobNotFound, RequeuestError
from requeuest_trio.cli import options
from requeuest_trio.cli.display import (
    body_text,
    cut,
    make_console,
    moment,
    one_line,
    say,
    seconds,
)
from requeuest_trio.cli.documents import show_document
from requeuest_trio.cli.dsn import every_job, open_existing
from requeuest_trio.cli.running import FINE, run
from requeuest_trio.cli.table import Column, print_table
from requeuest_trio.masking import masked_headers, masked_url

__all__ = ["show"]

_BODY_SHOWN = 2_000
_EXCERPT_SHOWN = 80
_QUOTE = "| "
_DIGITS = 32
_MOST_LISTED = 5
_COLUMNS = (
    Column("attempt", at_right=True),
    Column("started", leaves=2),
    Column("took", at_right=True, leaves=3),
    Column("reached", leaves=5),
    Column("status", at_right=True, leaves=6),
    Column("next", leaves=1),
    Column("error", least=20),
    Column("answer", least=15, leaves=4),
)


def _checked(context: click.Context, parameter: click.Parameter, text: str) -> str:
    """The hexadecimal digits of an id, or of its beginning or ending."""
    digits = text.strip().lower().replace("-", "")
    if not 0 < len(digits) <= _DIGITS or set(digits) - set(hexdigits):
        raise click.BadParameter(f"{text!r} is neither an id nor the beginning or ending of one")
    return digits


@click.command(short_help="Show one job: its request, attempts and answer.")
@click.argument("job_id", metavar="ID", callback=_checked)
@options.dsn_option
@options.schema_option
@options.sensitive_option
@options.json_option
def show(job_id: str, dsn: str, schema: str, sensitive: Collection[str], as_json: bool) -> None:
    """Show one job: its request, every attempt to deliver it, and the answer. Nothing is created or changed.

    ID may be the beginning or the ending of an id, if no other job's id begins or ends so: what `requeuest jobs` prints
    is enough. To find it, the whole queue is read.

    What looks secret in headers and in the URL is masked, and what --sensitive names; bodies are shown as they are. A |
    stands before each line that was sent or received. With --json it is one object: id, channel, state, priority,
    ordering_key, attempts_made, status, error, created_at, due_at, finished_at, request, attempts and response. Bodies
    are whole there, as body or, if they are no text, as body_base64.

    \b
    Example:
      requeuest show 01a20355-869e-7290-a022-cbe3994d39e2 --dsn postgresql:///app
    """
    run(partial(_show, job_id, dsn, schema, sensitive, as_json=as_json))


async def _show(job_id: str, dsn: str, schema: str, sensitive: Collection[str], *, as_json: bool) -> int:
    async with open_existing(dsn, schema) as client:
        job = await _find(client, job_id)
        attempts = await client.attempts(job.id)
    if as_json:
        print(json.dumps(show_document(job, attempts, sensitive)))
    else:
        console = make_console(sys.stdout)
        _print_job(console, job, sensitive)
        _print_request(console, job, sensitive)
        _print_attempts(console, attempts, sensitive)
        _print_response(console, job, sensitive)
    return FINE


async def _find(client: Client, digits: str) -> Job:
    if len(digits) == _DIGITS:
        if (job := await client.job(UUID(digits))) is None:
            raise JobNotFound(UUID(digits))
        return job
    found: list[Job] = []
    async with every_job(client) as every:
        async for job in every:
            if job.id.hex.startswith(digits) or job.id.hex.endswith(digits):
                found.append(job)
            if len(found) > _MOST_LISTED:
                break
    if not found:
        raise RequeuestError(f"no job has an id that begins or ends with {digits}")
    if len(found) > 1:
        more = " and more" if len(found) > _MOST_LISTED else ""
        raise RequeuestError(
            f"several jobs have ids that begin or end with {digits}: "
            f"{', '.join(str(one.id) for one in found[:_MOST_LISTED])}{more}"
        )
    return found[0]


def _print_job(console: Console, job: Job, sensitive: Collection[str]) -> None:
    fields = {
        "job": job.id,
        "channel": job.channel,
        "ordering key": job.ordering_key or "",
        "state": job.state,
        "attempts": job.attempts,
        "priority": job.priority or "",
        "created": moment(job.created_at),
        "due": "" if job.is_finished else moment(job.due_at),
        "finished": moment(job.finished_at),
        "last error": "" if job.error is None else one_line(masked_url(job.error, sensitive)),
    }
    for name, value in fields.items():
        if value != "":
            say(console, f"{name + ':':<14}{value}")


def _print_request(console: Console, job: Job, sensitive: Collection[str]) -> None:
    request = job.request
    _print_heading(console, "request")
    _quote(console, f"{request.method} {masked_url(request.url, sensitive)}")
    _print_message(console, request.headers, request.body, sensitive)
    accepted = ", ".join(
        f"{part.start}-{part.stop - 1}" if len(part) > 1 else str(part.start) for part in request.accept
    )
    timeout = "" if request.timeout is None else f", timeout {request.timeout:g} s"
    say(console, f"(accepts {accepted}{timeout}{', follows redirects' if request.follow_redirects else ''})")


def _print_attempts(console: Console, attempts: Sequence[Attempt], sensitive: Collection[str]) -> None:
    _print_heading(console, "attempts")
    if not attempts:
        say(console, "none has ended")
        return
    rows = [
        (
            attempt.number,
            moment(attempt.started_at),
            seconds(attempt.duration),
            attempt.reached,
            attempt.status or "",
            moment(attempt.retry_at),
            masked_url(attempt.error or "", sensitive),
            cut(one_line(_described(attempt.excerpt, _EXCERPT_SHOWN)), _EXCERPT_SHOWN),
        )
        for attempt in attempts
    ]
    print_table(console, _COLUMNS, rows)


def _print_response(console: Console, job: Job, sensitive: Collection[str]) -> None:
    if (response := job.response) is None:
        return
    _print_heading(console, "response, cut at the limit" if response.extensions.get("truncated") else "response")
    _quote(console, f"{response.status_code} {response.reason_phrase}")
    pairs = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw)
    _print_message(console, pairs, response.content, sensitive)


def _print_heading(console: Console, text: str) -> None:
    say(console, "")
    say(console, text, style="bold")


def _print_message(
    console: Console, headers: tuple[tuple[str, str], ...], body: bytes, sensitive: Collection[str]
) -> None:
    for name, value in masked_headers(headers, sensitive):
        _quote(console, f"{name}: {value}")
    if body:
        _quote(console, "")
        for line in _described(body, _BODY_SHOWN).split("\n"):
            _quote(console, line)


def _quote(console: Console, line: str) -> None:
    """Print what others have written so that none of it can be taken for the command's own words."""
    say(console, f"{_QUOTE}{line}".rstrip())


def _described(body: bytes, longest: int) -> str:
    text = body_text(body)
    if text is None:
        return f"{len(body):,} bytes, no text"
    text = text.replace("\r\n", "\n")
    return text if len(text) <= longest else f"{cut(text, longest)} ({len(body):,} bytes in all)"
