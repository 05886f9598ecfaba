"""`requeuest migrate`: bring the queue's tables up to date."""

import sys
from functools import partial

import click

import requeuest_trio
from requeuest_trio.cli import options
from requeuest_trio.cli.running import FINE, IMPOSSIBLE, run

__all__ = ["migrate"]


@click.command()
@options.dsn_option
@options.schema_option
@click.option(
    "--target",
    type=click.IntRange(min=0),
    metavar="N",
    help="The version to go to, also an older one. 0 removes the queue with everything in it. Default: the newest.",
)
@click.option("--yes", is_flag=True, help="Do not ask before the queue is removed.")
def migrate(dsn: str, schema: str, target: int | None, yes: bool) -> None:
    """Bring the queue's tables up to date, and print what was done.

    They are kept in a PostgreSQL schema of their own, which is made if there is none. Safe to run again, and from
    several machines at once.

    \b
    Example:
      requeuest migrate --dsn postgresql:///app
    """
    if target == 0 and not yes:
        _ask(schema)
    run(partial(_migrate, dsn, schema, target))


def _ask(schema: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("--target 0 removes the queue with everything in it: say --yes if you mean that")
    if not click.confirm(f"This removes the queue in schema {schema!r} with everything in it. Go on?", err=True):
        print("requeuest: nothing was removed", file=sys.stderr)
        sys.exit(IMPOSSIBLE)


async def _migrate(dsn: str, schema: str, target: int | None) -> int:
    applied = await requeuest_trio.migrate(dsn, schema=schema, target=target)
    for step in applied:
        print(step)
    if not applied:
        print("nothing to do")
    return FINE
